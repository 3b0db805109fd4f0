"""Evidence about the pages that Tenure serves, for `tenure policy`: they are rendered, and looked at."""

from __future__ import annotations

from datetime import UTC, datetime

from email_templates.language.translations import languages
from email_templates.mail.markup import NotWellFormed
from email_templates.mail.markup import page as parsed
from email_templates.pages.download_page import Offered, Refusal, page, refusal
from workers.observe.promises.evidence import Evidence, Installation, judged
from workers.services.download_page import headers
from workers.wiring.bootstrap import letterhead

#: By what a page would set a cookie, or have somebody else set one.
SETTING = frozenset({"script", "iframe", "object", "embed", "img"})
#: What spares the browser to ask for an icon: an empty one, written into the page.
NO_ICON = '<link rel="icon" href="data:,">'
_RECORD = Offered(
    account_name="Acme",
    account_ref="acme",
    available_until=datetime(2026, 1, 1, tzinfo=UTC),
    downloaded_at=None,
    records=1,
    files=1,
    size=1,
    sha256="0" * 64,
)


def pages_set_no_cookie(installation: Installation) -> Evidence:
    """P9.4: no answer of the download page sets a cookie, and nothing in it could.

    A browser test looks at the same pages for cookies and for requests to elsewhere.
    """
    company = letterhead(installation.settings).company
    shown = [
        *(page(_RECORD, language=each, time_zone="UTC", company=company) for each in languages()),
        *(refusal(why, language=each, company=company) for why in Refusal for each in languages()),
    ]
    try:
        elements = [element for html in shown for element in parsed(html.replace(NO_ICON, "")).all()]
    except NotWellFormed as error:
        return judged(False, f"a page cannot be read: {error}")
    able = sum(
        element.tag in SETTING
        or "http-equiv" in element.attributes
        or any(n.startswith("on") for n in element.attributes)
        for element in elements
    )
    sent = {name.lower() for name in headers()}
    return judged(
        not able and "set-cookie" not in sent and "content-security-policy" in sent,
        f"{len(shown)} pages rendered: no answer sets a cookie, and {able or 'no'} element could",
    )

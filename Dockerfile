# syntax=docker/dockerfile:1
# One image for every process of Tenure: the command says which. See docs/production.md.

FROM python:3.13-slim AS build
ENV UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never PYTHONDONTWRITEBYTECODE=1
WORKDIR /build

# uv itself, from the lock like everything else.
COPY requirements requirements
RUN sed -n '/^uv==/,/^    # via/p' requirements/development.txt > /tmp/uv.txt \
 && python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /tmp/uv.txt

# The dependencies alone: this layer is rebuilt only when the lock changes.
RUN uv venv /opt/tenure \
 && VIRTUAL_ENV=/opt/tenure uv pip install --require-hashes --compile-bytecode -r requirements/production.txt

# Tenure, as a wheel made by a build backend from the lock.
COPY pyproject.toml README.md LICENSE ./
COPY workers workers
COPY tasks tasks
COPY models models
COPY email_templates email_templates
COPY scheduler scheduler
RUN uv build --wheel --require-hashes --build-constraints requirements/development.txt --out-dir /tmp/wheel . \
 && VIRTUAL_ENV=/opt/tenure uv pip install --no-deps --compile-bytecode /tmp/wheel/tenure-*.whl


FROM python:3.13-slim
LABEL org.opencontainers.image.title="Tenure" \
      org.opencontainers.image.description="Background jobs on Celery and PostgreSQL: statements, mail, session sweeps" \
      org.opencontainers.image.licenses="Apache-2.0"

# Nothing is installed at run time, so what could install goes; the user owns no file in the image.
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore pip \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin tenure
COPY --from=build /opt/tenure /opt/tenure

# Bytecode was compiled above: no process writes anything but to /tmp, so the root file system may be read-only.
ENV PATH=/opt/tenure/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 10001:10001

# No HEALTHCHECK: one image runs four different processes, and what is healthy differs; see docker-compose.yml.
CMD ["tenure", "--help"]

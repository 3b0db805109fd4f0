"""Where the demo's customers live: names, places and manners of a few countries, from word lists of our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: Of what our currency units are worth in euros, roughly, and the step that prices are rounded to, in minor units.
PRICES: Mapping[str, tuple[float, int]] = {
    "EUR": (1.0, 100),
    "USD": (1.1, 100),
    "GBP": (0.85, 50),
    "CHF": (0.95, 5),
    "JPY": (165.0, 10),
    "KWD": (0.335, 250),
    "AED": (4.0, 100),
    "BRL": (6.1, 10),
    "EGP": (52.0, 100),
    "SEK": (11.3, 100),
    "PLN": (4.3, 1),
    "INR": (95.0, 100),
    "AUD": (1.7, 5),
    "CAD": (1.5, 5),
    "MXN": (20.5, 50),
    "TRY": (40.0, 25),
    "KRW": (1550.0, 10),
    "NGN": (1700.0, 100),
    "ZAR": (20.0, 10),
    "NZD": (1.85, 5),
    "CLP": (1040.0, 10),
}


@dataclass(frozen=True, slots=True)
class City:
    name: str
    postcode: str
    time_zone: str


@dataclass(frozen=True, slots=True)
class Country:
    """A country as its customers write to us.

    `given` and `family` are pairs of a name and, where it is not written in Latin letters, how its bearer spells it in
    an e-mail address. `firms` are patterns of a company's name; `address` is one of its lines, separated by `|`.
    `weight` says how many customers there are, beside those of other countries.
    """

    code: str
    weight: int
    currency: str
    second_currency: str
    languages: Sequence[str]
    cities: Sequence[City]
    given: Sequence[tuple[str, str]]
    family: Sequence[tuple[str, str]]
    trades: Sequence[str]
    firms: Sequence[str]
    streets: Sequence[str]
    address: str
    family_first: bool = False


def _plain(names: str) -> Sequence[tuple[str, str]]:
    return [(name, name) for name in names.split()]


def _spelt(names: str) -> Sequence[tuple[str, str]]:
    pairs = [pair.split("=") for pair in names.split("|")]
    return [(name, latin) for name, latin in pairs]


def _places(time_zone: str, *places: str) -> Sequence[City]:
    split = [place.split("|") for place in places]
    return [City(parts[0], parts[1], parts[2] if len(parts) > 2 else time_zone) for parts in split]


_GERMAN_GIVEN = "Anna Jürgen Käthe Lukas Miriam Sören Ute Björn Friederike Matthias Renate Tobias"
_GERMAN_FAMILY = "Köhler Müller Groß Schäfer Weiß Böhm Lindner Vogt Kästner Jäger Brandt Süß"
_FRENCH_GIVEN = "Éloïse François Zoé Benoît Amélie Gaël Margaux Rémi Noémie Théo"
_FRENCH_FAMILY = "Lefèvre Béranger Dubois Châtelain Moreau Garçon Guérin Noël Perrot Lacroix"
_ENGLISH_GIVEN = "Alice Oliver Priya Hamish Siobhán Grace Owen Zadie Callum Imogen Rhys Nadia"
_ENGLISH_FAMILY = "Ashworth Pemberton O'Neill Okafor Whitlock Macleod Hartley Fairfax Drummond Kelsey Brontë"
_SPANISH_GIVEN = "Lucía Andrés Íñigo Marta Joaquín Nuria Sofía Rubén Begoña Álvaro"
_SPANISH_FAMILY = "Muñoz Ibáñez Castaño Herrera Peña Vázquez Ordóñez Luján Quiroga Sáenz"
_ARABIC_GIVEN = _spelt(
    "محمد=mohammed|فاطمة=fatima|خالد=khaled|مريم=maryam|يوسف=yousef|نورة=noura|عبد الله=abdullah|ليلى=layla"
    "|سالم=salem|هدى=huda"
)
_ARABIC_FAMILY = _spelt(
    "العتيبي=alotaibi|الحداد=alhaddad|المنصوري=almansoori|الصباح=alsabah|النجار=alnajjar|الخطيب=alkhatib"
    "|الشامي=alshami|القاسم=alqasim|البدر=albader|الزهراني=alzahrani"
)
_ARABIC_TRADES = ("للتجارة", "للمقاولات", "للتقنية", "للنقل", "للأثاث", "للأغذية")
_ARABIC_FIRMS = ("شركة {family} {trade}", "مؤسسة {family} {trade}", "مجموعة {family}")

COUNTRIES: Sequence[Country] = (
    Country(
        "DE",
        14,
        "EUR",
        "USD",
        ("de-DE", "de-DE", "en-GB"),
        _places("Europe/Berlin", "Köln|50667", "Görlitz|02826", "München|80331", "Hamburg|20095", "Würzburg|97070"),
        _plain(_GERMAN_GIVEN),
        _plain(_GERMAN_FAMILY),
        ("Maschinenbau", "Gartenbau", "Verlag", "Optik", "Logistik", "Möbelwerkstätten"),
        ("{family} {trade} GmbH", "{family} & Söhne {trade}", "{family} & {other} OHG", "{city}er {trade} AG"),
        ("Lindenstraße", "Am Königshof", "Mühlweg", "Bahnhofstraße", "Große Gasse"),
        "{street} {number}|{postcode} {city}|Deutschland",
    ),
    Country(
        "AT",
        5,
        "EUR",
        "CHF",
        ("de-AT",),
        _places("Europe/Vienna", "Wien|1070", "Graz|8010", "St. Pölten|3100"),
        _plain(_GERMAN_GIVEN),
        _plain("Gruber Höller Pichler Wöss Steinböck Egger Kofler"),
        ("Tischlerei", "Feinkost", "Seilbahnen", "Kaffeerösterei"),
        ("{family} {trade} GmbH", "{trade} {family} KG"),
        ("Neubaugasse", "Österreicherplatz", "Schloßweg"),
        "{street} {number}|{postcode} {city}|Österreich",
    ),
    Country(
        "CH",
        8,
        "CHF",
        "EUR",
        ("de-CH", "fr-CH", "de-CH"),
        _places("Europe/Zurich", "Zürich|8004", "Genève|1201", "Neuchâtel|2000", "Bern|3011"),
        _plain(_GERMAN_GIVEN + " Loïc Solène Reto Beat"),
        _plain("Zürcher Rochat Aebischer Favre Bühler Jaquet"),
        ("Uhren", "Präzisionstechnik", "Treuhand", "Fromagerie"),
        ("{family} {trade} AG", "{trade} {family} SA", "{family} & {other} Sàrl"),
        ("Rue du Rhône", "Langstrasse", "Höheweg"),
        "{street} {number}|{postcode} {city}|Schweiz · Suisse",
    ),
    Country(
        "FR",
        11,
        "EUR",
        "GBP",
        ("fr-FR",),
        _places(
            "Europe/Paris",
            "Lyon|69002",
            "Besançon|25000",
            "Paris|75011",
            "Nîmes|30000",
            "Saint-Denis|97400|Indian/Reunion",
        ),
        _plain(_FRENCH_GIVEN),
        _plain(_FRENCH_FAMILY),
        ("Menuiserie", "Librairie", "Pâtisserie", "Électricité", "Conseil"),
        ("{trade} {family} SARL", "Établissements {family}", "{family} & Fils", "Atelier {family} SAS"),
        ("rue de la République", "allée des Chênes", "quai Saint-Michel", "place du Marché"),
        "{number}, {street}|{postcode} {city}|France",
    ),
    Country(
        "PT",
        6,
        "EUR",
        "BRL",
        ("pt-PT",),
        _places(
            "Europe/Lisbon",
            "Lisboa|1200-109",
            "Porto|4050-162",
            "Évora|7000-508",
            "Ponta Delgada|9500-150|Atlantic/Azores",
        ),
        _plain("Luís Conceição João Inês Vítor Mónica Sebastião"),
        _plain("Gonçalves Simões Araújo Magalhães Brandão Corrêa"),
        ("Engenharia", "Cerâmica", "Conservas", "Azulejos"),
        ("{family} {trade} Lda.", "{given} {family} {trade}", "{family} & Filhos"),
        ("Rua da Conceição", "Travessa do Século", "Largo de São João"),
        "{street}, {number}|{postcode} {city}|Portugal",
    ),
    Country(
        "ES",
        8,
        "EUR",
        "USD",
        ("es-ES",),
        _places(
            "Europe/Madrid", "Sevilla|41001", "A Coruña|15003", "Barcelona|08002", "Las Palmas|35002|Atlantic/Canary"
        ),
        _plain(_SPANISH_GIVEN),
        _plain(_SPANISH_FAMILY),
        ("Aceites", "Diseño", "Construcción", "Señalización"),
        ("{trade} {family} S.L.", "{family} e Hijos", "Grupo {family} {other}"),
        ("Calle del Ángel", "Avenida de la Constitución", "Plaza Mayor"),
        "{street}, {number}|{postcode} {city}|España",
    ),
    Country(
        "IT",
        7,
        "EUR",
        "CHF",
        ("it-IT",),
        _places("Europe/Rome", "Forlì|47121", "Torino|10121", "Napoli|80134"),
        _plain("Niccolò Chiara Giosuè Beatrice Tommaso Noemi"),
        _plain("Salvò Colò D'Angelo Fabbri Lombardi Zanella"),
        ("Ceramiche", "Officine", "Tessuti", "Caffè"),
        ("{trade} {family} S.r.l.", "Fratelli {family}", "{family} & {other} S.p.A."),
        ("Via Libertà", "Corso Umberto I", "Piazza della Città"),
        "{street} {number}|{postcode} {city}|Italia",
    ),
    Country(
        "NL",
        5,
        "EUR",
        "USD",
        ("nl-NL", "en-GB"),
        _places("Europe/Amsterdam", "Utrecht|3511 AX", "Groningen|9711 LM", "Oranjestad|0000|America/Aruba"),
        _plain("Daniël Fleur Joost Renée Sjoerd Wietske"),
        _plain("Bakker Coenraad Hoekstra Vermeulen Zijlstra"),
        ("Bloemen", "Scheepsbouw", "Fietsen"),
        ("{family} {trade} B.V.", "Gebroeders {family}", "{family} en Zonen"),
        ("Oudegracht", "Prinsenkade", "Zuiderdiep"),
        "{street} {number}|{postcode} {city}|Nederland",
    ),
    Country(
        "GB",
        12,
        "GBP",
        "EUR",
        ("en-GB",),
        _places("Europe/London", "London|EC1R 0AA", "Leith|EH6 6RA", "Bristol|BS1 4DJ", "Aberystwyth|SY23 2AZ"),
        _plain(_ENGLISH_GIVEN),
        _plain(_ENGLISH_FAMILY),
        ("Joinery", "Bakery", "Instruments", "Press", "Freight", "Nurseries"),
        ("{family} {trade} Ltd", "{family} & {other} LLP", "The {city} {trade} Company", "{family} Brothers"),
        ("Quarry Lane", "St Anne's Road", "Harbour Street", "Mill Yard"),
        "{number} {street}|{city}|{postcode}|United Kingdom",
    ),
    Country(
        "IE",
        4,
        "EUR",
        "GBP",
        ("en-IE",),
        _places("Europe/Dublin", "Galway|H91 E2K8", "Dublin|D02 XE80"),
        _plain("Aoife Seán Róisín Pádraig Niamh"),
        _plain("MacBrádaigh Kavanagh Brennan Daly Quinlan"),
        ("Brewing", "Knitwear", "Software"),
        ("{family} {trade} DAC", "{family} & {other}"),
        ("Quay Street", "Fade Street"),
        "{number} {street}|{city}|{postcode}|Ireland",
    ),
    Country(
        "US",
        14,
        "USD",
        "CAD",
        ("en-US",),
        _places(
            "America/New_York",
            "Brooklyn, NY|11201",
            "Chicago, IL|60607|America/Chicago",
            "Boise, ID|83702|America/Boise",
            "Portland, OR|97209|America/Los_Angeles",
            "Honolulu, HI|96813|Pacific/Honolulu",
            "Phoenix, AZ|85004|America/Phoenix",
        ),
        _plain("Maya Ethan Guadalupe DeShawn Hannah Wyatt Naomi Renée"),
        _plain("Abernathy Delgado Hollis Nakamura Schwartz Tillman Whitaker Yazzie"),
        ("Robotics", "Outfitters", "Analytics", "Foods", "Letterpress", "Solar"),
        ("{family} {trade} Inc.", "{family}, {other} & Co.", "{family} {trade} LLC"),
        ("Juniper Avenue", "Harrison Street", "Canyon Road", "Wharf Street"),
        "{number} {street}|{city} {postcode}|USA",
    ),
    Country(
        "CA",
        6,
        "CAD",
        "USD",
        ("fr-CA", "en-CA"),
        _places(
            "America/Toronto",
            "Montréal, QC|H2X 1Y4",
            "St. John's, NL|A1C 5H4|America/St_Johns",
            "Vancouver, BC|V6B 1A1|America/Vancouver",
        ),
        _plain("Océane Jérôme Emily Liam Chloé Tanvi"),
        _plain("Bélanger Tremblay Côté MacNeil Singh Gagné"),
        ("Érablière", "Forestry", "Studios"),
        ("{family} {trade} Inc.", "{trade} {family} ltée"),
        ("rue Saint-Urbain", "Duckworth Street", "Water Street"),
        "{number} {street}|{city} {postcode}|Canada",
    ),
    Country(
        "BR",
        8,
        "BRL",
        "USD",
        ("pt-BR",),
        _places(
            "America/Sao_Paulo",
            "São Paulo|01310-100",
            "Belém|66017-000|America/Belem",
            "Manaus|69005-040|America/Manaus",
        ),
        _plain("Antônio Conceição Júlia Thaís Caetano Iolanda"),
        _plain("Assunção Falcão Guimarães Barão Nóbrega"),
        ("Café", "Calçados", "Informática", "Transportes"),
        ("{trade} {family} Ltda.", "{family} Irmãos S.A."),
        ("Avenida Paulista", "Rua das Araucárias", "Travessa Padre Eutíquio"),
        "{street}, {number}|{postcode} {city}|Brasil",
    ),
    Country(
        "MX",
        4,
        "MXN",
        "USD",
        ("es-MX",),
        _places("America/Mexico_City", "Ciudad de México|06000", "Cancún|77500|America/Cancun"),
        _plain(_SPANISH_GIVEN),
        _plain(_SPANISH_FAMILY),
        ("Textiles", "Mezcal", "Ingeniería"),
        ("{trade} {family} S.A. de C.V.", "Hermanos {family}"),
        ("Calle Niños Héroes", "Avenida Juárez"),
        "{street} {number}|{postcode} {city}|México",
    ),
    Country(
        "CL",
        2,
        "CLP",
        "USD",
        ("es-CL",),
        _places("America/Santiago", "Valparaíso|2340000", "Hanga Roa|2770000|Pacific/Easter"),
        _plain(_SPANISH_GIVEN),
        _plain(_SPANISH_FAMILY),
        ("Viñedos", "Pesquera"),
        ("{trade} {family} SpA",),
        ("Avenida Alemania", "Calle Esmeralda"),
        "{street} {number}|{postcode} {city}|Chile",
    ),
    Country(
        "JP",
        9,
        "JPY",
        "USD",
        ("ja-JP",),
        _places("Asia/Tokyo", "Kyoto|604-8006", "Tokyo|101-0051", "Sapporo|060-0001"),
        _spelt("美咲=misaki|健太=kenta|陽子=yoko|翔太=shota|恵=megumi|直樹=naoki|彩香=ayaka"),
        _spelt("高橋=takahashi|山本=yamamoto|小林=kobayashi|渡辺=watanabe|伊藤=ito|佐々木=sasaki"),
        ("Seisakusho", "Shoten", "Denki", "Kōgyō"),
        ("{latin} {trade} K.K.", "{city} {trade} Co., Ltd."),
        ("Sanjō-dōri", "Jinbōchō", "Kita-ichijō"),
        "{number} {street}|{city} {postcode}|Japan",
        family_first=True,
    ),
    Country(
        "KR",
        3,
        "KRW",
        "USD",
        ("ko-KR",),
        _places("Asia/Seoul", "Seoul|04524", "Busan|48058"),
        _spelt("서연=seoyeon|민준=minjun|지우=jiwoo|하은=haeun"),
        _spelt("김=kim|이=lee|박=park|최=choi"),
        ("Electronics", "Textile", "Games"),
        ("{latin} {trade} Co., Ltd.", "{city} {trade} Inc."),
        ("Sejong-daero", "Centum-ro"),
        "{number} {street}|{city} {postcode}|Republic of Korea",
        family_first=True,
    ),
    Country(
        "IN",
        7,
        "INR",
        "USD",
        ("en-IN", "hi-IN"),
        _places("Asia/Kolkata", "Bengaluru|560001", "Pune|411001", "Kochi|682001"),
        _plain("Ananya Arjun Kavya Rohan Meera Vikram"),
        _plain("Iyer Deshpande Banerjee Kulkarni Menon Rao"),
        ("Textiles", "Infotech", "Spices", "Tools"),
        ("{family} {trade} Pvt. Ltd.", "{family} & Sons"),
        ("MG Road", "Church Street", "Laxmi Road"),
        "{number}, {street}|{city} {postcode}|India",
    ),
    Country(
        "AE",
        7,
        "AED",
        "USD",
        ("ar-AE", "ar-AE", "en-GB"),
        _places("Asia/Dubai", "دبي|00000", "أبوظبي|00000", "الشارقة|00000"),
        _ARABIC_GIVEN,
        _ARABIC_FAMILY,
        _ARABIC_TRADES,
        _ARABIC_FIRMS,
        ("شارع الشيخ زايد", "شارع الكورنيش", "شارع الوحدة"),
        "{number} {street}|{city}|الإمارات العربية المتحدة",
    ),
    Country(
        "KW",
        6,
        "KWD",
        "USD",
        ("ar-KW",),
        _places("Asia/Kuwait", "الكويت|13001", "حولي|32001"),
        _ARABIC_GIVEN,
        _ARABIC_FAMILY,
        _ARABIC_TRADES,
        _ARABIC_FIRMS,
        ("شارع فهد السالم", "شارع سالم المبارك"),
        "{number} {street}|{city} {postcode}|الكويت",
    ),
    Country(
        "EG",
        5,
        "EGP",
        "USD",
        ("ar-EG",),
        _places("Africa/Cairo", "القاهرة|11511", "الإسكندرية|21500"),
        _ARABIC_GIVEN,
        _ARABIC_FAMILY,
        _ARABIC_TRADES,
        _ARABIC_FIRMS,
        ("شارع طلعت حرب", "شارع النيل"),
        "{number} {street}|{city} {postcode}|مصر",
    ),
    Country(
        "SE",
        5,
        "SEK",
        "EUR",
        ("sv-SE",),
        _places("Europe/Stockholm", "Göteborg|411 05", "Umeå|903 26"),
        _plain("Åsa Björn Märta Östen Linnéa Håkan"),
        _plain("Ångström Sjöberg Lövgren Häggkvist Dahl"),
        ("Möbler", "Sågverk", "Mjukvara"),
        ("{family} {trade} AB", "{family} & {other} HB"),
        ("Östra Hamngatan", "Rådhusesplanaden"),
        "{street} {number}|{postcode} {city}|Sverige",
    ),
    Country(
        "PL",
        5,
        "PLN",
        "EUR",
        ("pl-PL",),
        _places("Europe/Warsaw", "Łódź|90-001", "Gdańsk|80-831", "Kraków|31-005"),
        _plain("Łukasz Żaneta Grażyna Michał Świętosława Paweł"),
        _plain("Wójcik Dąbrowska Zieliński Kaźmierczak Śliwa"),
        ("Piekarnia", "Meble", "Szkło"),
        ("{trade} {family} sp. z o.o.", "{family} i {other} s.c."),
        ("ul. Piotrkowska", "ul. Długa", "ul. Świętego Jana"),
        "{street} {number}|{postcode} {city}|Polska",
    ),
    Country(
        "TR",
        4,
        "TRY",
        "EUR",
        ("tr-TR",),
        _places("Europe/Istanbul", "İstanbul|34421", "İzmir|35210"),
        _plain("Ayşe Çağlar Gülşen İbrahim Oğuz"),
        _plain("Yıldız Şahin Öztürk Kılıç Güneş"),
        ("Tekstil", "İnşaat", "Gıda"),
        ("{family} {trade} A.Ş.", "{family} Kardeşler Ltd. Şti."),
        ("İstiklal Caddesi", "Kıbrıs Şehitleri Caddesi"),
        "{street} No. {number}|{postcode} {city}|Türkiye",
    ),
    Country(
        "GR",
        3,
        "EUR",
        "USD",
        ("el-GR",),
        _places("Europe/Athens", "Αθήνα|105 57", "Θεσσαλονίκη|546 24"),
        _spelt("Ελένη=eleni|Γιώργος=giorgos|Σοφία=sofia|Νίκος=nikos"),
        _spelt("Παπαδάκης=papadakis|Οικονόμου=ikonomou|Βλάχος=vlachos"),
        ("Ελαιουργία", "Ναυτιλιακή"),
        ("{trade} {family} Α.Ε.", "Αφοί {family} Ο.Ε."),
        ("Ερμού", "Τσιμισκή"),
        "{street} {number}|{postcode} {city}|Ελλάδα",
    ),
    Country(
        "AU",
        6,
        "AUD",
        "USD",
        ("en-AU",),
        _places(
            "Australia/Sydney",
            "Sydney NSW|2000",
            "Adelaide SA|5000|Australia/Adelaide",
            "Perth WA|6000|Australia/Perth",
            "Eucla WA|6443|Australia/Eucla",
            "Lord Howe Island NSW|2898|Australia/Lord_Howe",
        ),
        _plain(_ENGLISH_GIVEN),
        _plain("Nguyen Fitzgerald Papadopoulos Wells Blackburn"),
        ("Surfboards", "Vineyards", "Mining Services"),
        ("{family} {trade} Pty Ltd", "{family} & {other}"),
        ("Kent Street", "Rundle Street"),
        "{number} {street}|{city} {postcode}|Australia",
    ),
    Country(
        "ZA",
        3,
        "ZAR",
        "USD",
        ("en-ZA",),
        _places("Africa/Johannesburg", "Cape Town|8001", "Durban|4001"),
        _plain("Thandeka Sipho Anele Pieter"),
        _plain("Dlamini Nkosi Botha Mokoena"),
        ("Wines", "Minerals"),
        ("{family} {trade} (Pty) Ltd",),
        ("Bree Street", "Florida Road"),
        "{number} {street}|{city}|{postcode}|South Africa",
    ),
    Country(
        "NG",
        3,
        "NGN",
        "USD",
        ("en-NG",),
        _places("Africa/Lagos", "Lagos|101001", "Ìbàdàn|200212"),
        _plain("Adébáyọ̀ Chidera Ṣadé Ngozi"),
        _plain("Adéyẹmí Okonkwo Balógun Ezé"),
        ("Fabrics", "Agro"),
        ("{family} {trade} Ltd",),
        ("Broad Street", "Ọ̀yọ́ Road"),
        "{number} {street}|{city} {postcode}|Nigeria",
    ),
    Country(
        "NZ",
        2,
        "NZD",
        "USD",
        ("en-NZ",),
        _places("Pacific/Auckland", "Whangārei|0110", "Waitangi|8016|Pacific/Chatham"),
        _plain("Aroha Tāne Moana Jack"),
        _plain("Ngāta Tūroa Campbell"),
        ("Honey", "Wool"),
        ("{family} {trade} Ltd",),
        ("Rātā Street", "Quay Road"),
        "{number} {street}|{city} {postcode}|New Zealand",
    ),
)

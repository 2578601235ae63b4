"""Languages of memories: which stemmer and which stop words belong to a text.

Rules
1. Metadata decides where it says (`metadata.language`, such as `de`, `de-AT` or `german`); otherwise the text does.
2. A text of a script that stands for one language here has that one: Greek, Cyrillic (Russian), Arabic, Devanagari
   (Hindi), Tamil, Armenian.
3. Any other has the language whose stop words occur most often in it, if there are at least two and more than English
   ones; all else is English. A wrong guess costs little: a query is read in every language that the memories have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import Stemmer

ENGLISH: Final = "english"

# Articles, pronouns, prepositions, auxiliaries, and what an apostrophe leaves of them.
_STOP_WORD_TEXTS: Final = {
    ENGLISH: """
a about above after again all am an and any are aren as at be because been before being below between both but by
can could couldn d did didn do does doesn doing don down during each few for from further had hadn has hasn have
haven having he her here hers herself him himself his how i if in into is isn it its itself just ll m me more most
my myself no nor not now of off on once only or other our ours ourselves out over own re s same she should shouldn
so some such t than that the their theirs them themselves then there these they this those through to too under
until up ve very was wasn we were weren what when where which while who whom why will with would wouldn you your
yours yourself yourselves""",
    "german": """
aber alle allem allen aller alles als also am an auch auf aus bei beim bin bis bist da damit dann das dass daß dein
deine dem den denn der des dich die dies diese diesem diesen dieser dieses dir doch dort du durch ein eine einem einen
einer eines er es etwas euch euer für gegen hab habe haben hat hatte hatten hier hin hinter ich ihm ihn ihnen ihr ihre
ihrem ihren ihrer im in ins ist ja jede jedem jeden jeder jedes kann kein keine keinem keinen keiner können mein meine
meinem meinen meiner mich mir mit muss nach nicht noch nun nur ob oder ohne sehr sein seine seinem seinen seiner
selbst sich sie sind so soll sondern sonst über um und uns unser unsere unter vom von vor wann war waren warum was weil
welche welchem welchen welcher welches wem wen wenn wer werden wie wieder will wir wird wo wollen wurde würde zu zum
zur zwar zwischen""",
    "french": """
a ai ainsi alors après as au aussi aux avant avec avoir c ce cela ces cet cette chez comme d dans de des donc du elle
elles en est et étaient était être eu eux fait il ils j je l la le les leur leurs lui m ma mais me même mes moi mon n
ne nos notre nous on ont ou où par parce pas pendant peut plus pour pourquoi qu quand que quel quelle quelles quels qui
quoi s sa sans se sera ses si son sont sous sur t ta te tes toi ton tous tout toute toutes très tu un une vers vos
votre vous y""",
    "spanish": """
a al algo antes aquí así aunque cada como con contra cuál cuando cuándo de del desde donde dónde dos durante e el él
ella ellas ellos en entre era eran eres es esa esas ese eso esos esta está estaba están estas este esto estos fue
fueron ha haber había hace han hasta hay la las le les lo los más me mi mí mientras mis mucho muy nada ni no nos
nosotros nuestra nuestro o os otra otro para pero poco por porque qué que quién quien se sea ser si sí sido sin sobre
son su sus también tan te tiene tienen toda todas todo todos tu tú tus un una uno unos usted y ya yo""",
    "italian": """
a abbiamo agli ai al alla alle allo anche ancora avere aveva avevano c che chi ci come con contro cosa cui d da dagli
dai dal dalla dalle dallo degli dei del dell della delle dello di dopo dove e è ed era erano essere fa fra gli ha hai
hanno ho i il in io l la le lei li lo loro lui ma me mi mia mie mio molto ne negli nei nel nell nella nelle nello no
noi non nostra nostro o ogni per perché però più poi prima quale quali quando quella quello questa queste questi
questo qui se sei senza si sia siamo sono sta stata stato su sua sue sugli sui sul sulla sulle suo suoi tra tu tua tuo
tutti tutto un una uno vi voi""",
    "portuguese": """
a ao aos antes as às até cada com como contra da das de dela dele deles depois do dos e é ela elas ele eles em entre
era eram essa esse esta está estão estava este eu foi foram há isso isto já la lhe mais mas me meu mesmo meus minha
minhas muito na não nas nem no nos nós nossa nosso num numa o os ou para pela pelas pelo pelos pode por porque quais
qual quando que quem são se seja sem ser seu seus sob sobre sua suas só também te tem têm teu tinha todo todos tu um
uma umas uns você vocês""",
    "dutch": """
aan al alles als altijd ben bij daar dan dat de der deze die dit doch doen door dus een en er ge geen geweest haar had
heb hebben heeft hem het hier hij hoe hun iemand iets ik in is ja je jij jouw jullie kan kon kunnen maar me meer men
met mij mijn moet na naar niet niets nog nu of om omdat onder ons onze ook op over reeds te tegen toch toen tot u uit
uw van veel voor waar waarom wanneer want waren was wat we wel welke werd wezen wie wij wil worden wordt zal ze zei
zelf zich zij zijn zo zonder zou""",
    "swedish": """
alla allt än är att av blev bli blir da då de dem den denna deras dess dessa det detta dig din dina ditt du där efter
ej eller en er era ert ett från för ha hade han hans har henne hennes hon honom hur här i icke ingen inom inte jag ju
kan kunde man med mellan men mig min mina mitt mot mycket ni nu när någon något några och om oss på samma sedan sig
sin sina sitt skulle som så sådan till under upp ut utan vad var vara varför vart vem vi vid vilka vilken vilket vår
våra vårt""",
    "danish": """
af alle alt anden at blev blive bliver da de dem den denne der deres det dette dig din dine disse dog du efter eller
en end er et for fordi fra ham han hans har havde have hende hendes her hos hun hvad hvilken hvis hvor hvorfor hvornår
i ikke ind ingen jeg jer jo kan kunne man mange med meget men mig min mine mit mod når ned noget nogle nu og også om
op os over på sådan selv sig sin sine sit skal skulle som til ud under var vi vil ville vor være været""",
    "norwegian": """
alle alt at av begge ble blei bli blir både da de deg dei deim deira dem den denne der dere deres det dette di din
disse ditt du då eg ein eit ei eller en enn er et etter for fordi fra før ha hadde han hans har henne hennes her hun
hva hvem hver hvilken hvis hvor hvordan hvorfor i ikke inn ingen jeg kan kom kun kunne man mange med meg meget mellom
men mens mer min mine mitt mot mye når ned no noe noen nå og også om opp oss over på samme seg selv si sin sine sitt
skal skulle slik som så til ut uten vær være vært var vår vi vil ville""",
    "finnish": """
ei ehkä eivät emme en ennen et että ette ha he hän hänen häntä ilman itse ja jälkeen jo joka jolla jonka jos jossa
jota jotka kaikki kanssa koko koska kuin kuinka kun kuka me meidän meille mihin mikä miksi milloin minkä minua minulla
minulle minun minä missä mitä mutta myös ne niiden niin niitä noin nyt näiden nämä ole oleva oli olimme olin olisi
olivat olla on ovat paljon se sekä sen siinä siitä sillä sinua sinulla sinun sinä sitä tai te teidän tämä tämän tässä
tätä tuo vaan vai vain vielä voi yli""",
    "hungarian": """
a abban ahhoz ahogy aki akik akkor alatt amely amelyek amelyet ami amit amíg az azok azon azonban azt aztán azért be
benne csak de e ebben egy egyik egyéb el ennek én és ez ezek ezen ezt ezzel ezért fel ha hanem hogy hogyan honnan hol
ide igen ill így illetve is ismét itt jó kell ki kívül le lehet lenne lesz lett maga majd már még meg mellett mely mert
mi miért mikor milyen mind minden mint mit mivel most nagyon nekem neki nem nincs ő ők őket olyan ott pedig például
saját sem soha sok számára szerint szinte talán te több úgy után utolsó vagy vagyok valaki valami van vannak vele
vissza volna volt voltak volt""",
    "romanian": """
a acea aceasta această acel acest aceste acestea acești ai al ale am ar are aș așa asta astfel atunci au avea avem
aveți azi ca că câ când care cărui ce cel cei cele chiar cine cu cum da dacă dar de deci deja din după ea ei el ele era
este eu fără fi fie fost i îi îl îmi în încă între își îți la le li lor lui mai mea mele meu mi mult ne nici noastră
noi nostru nu o ori pe pentru peste poate prea prin s sa să sale sau se și sunt su sub ta tot toate toți tu un una
unde unei unor unui va vă voi vom vor vreau""",
    "turkish": """
acaba ama ancak artık asla aslında ben bana beni benim bile bir biri birkaç biz bize bizi bizim bu buna bunda bundan
bunlar bunu bunun burada çok çünkü da daha de değil diye dolayı eğer en gibi göre hem hep hepsi her hiç için ile ise
kadar karşı kendi kez ki kim mı mi mu mü nasıl ne neden nerede nereye niye o olan olarak oldu olduğu olması olur ona
onlar onlara onları onların onu onun orada oysa sana sen seni senin siz size sizi sizin sonra şey şu tarafından tüm
üzere var ve veya ya yani yerine yok zaten""",
    "catalan": """
a abans això al algun aquell aquella aquest aquesta aquí als amb aquests bé cada com d de del dels des després dins
doncs durant el ell ella elles ells els em en encara entre era és est esta està estan et etc fins ha han has havia he hi
hem ho i ja jo l la les li llavors lo los m ma mai malgrat mateix me mentre meu més meva molt n ni no nosaltres nostra
nostre o on pel pels per perquè però poc potser primer què qual quan quant que qui quina s sa se sense ser sense seu
seus seva si sí són sota sobre soc t tal també te tenir teu tot tots tu un una uns vaig van vosaltres""",
    "indonesian": """
ada adalah agar akan aku anda apa apakah atas atau bagaimana bagi bahwa banyak belum bisa bukan dalam dan dapat dari
dengan di dia hanya harus ia ini itu jika juga kalau kami kamu kapan karena ke kepada ketika kita lagi lalu lebih
maka mana masih mengapa mereka oleh pada para pernah saat saja sambil sangat saya sebagai sebelum sebuah sedang
sehingga sejak seorang seperti serta siapa suatu sudah supaya tapi telah tentang tetapi tidak untuk yang""",
    "russian": """
а без более был была были было быть в вам вас ваш весь во вот все всё всего всех вы где да даже для до его ее её если
есть еще ещё ж же за и из или им их к как когда которая которые который кто ли мне мной может мой мы на над нам нас
наш не него нее неё ней нет ни них но ну о об однако он она они оно от очень по под потом потому почему при про с свой
себя со так также там тебя то тобой того тоже только том ты у уже чем что чтобы эта эти это этого этой этот я""",
}
_STOP_WORDS: Final = {name: frozenset(text.casefold().split()) for name, text in _STOP_WORD_TEXTS.items()}
_NO_WORDS: Final[frozenset[str]] = frozenset()

# ISO 639-1; "nb" and "nn" are both forms of Norwegian.
_CODES: Final = {
    "ar": "arabic",
    "ca": "catalan",
    "cs": "czech",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": ENGLISH,
    "eo": "esperanto",
    "es": "spanish",
    "et": "estonian",
    "eu": "basque",
    "fa": "persian",
    "fi": "finnish",
    "fr": "french",
    "ga": "irish",
    "hi": "hindi",
    "hu": "hungarian",
    "hy": "armenian",
    "id": "indonesian",
    "it": "italian",
    "lt": "lithuanian",
    "nb": "norwegian",
    "ne": "nepali",
    "nl": "dutch",
    "nn": "norwegian",
    "no": "norwegian",
    "pl": "polish",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sr": "serbian",
    "st": "sesotho",
    "sv": "swedish",
    "ta": "tamil",
    "tr": "turkish",
    "yi": "yiddish",
}

LANGUAGES: Final = (ENGLISH, *sorted((set(_CODES.values()) & set(Stemmer.algorithms())) - {ENGLISH}))
"""Every language with a stemmer, English first. The order decides ties."""

_SCRIPTS: Final = (
    ("greek", re.compile("[\u0370-\u03ff\u1f00-\u1fff]+")),
    ("russian", re.compile("[\u0400-\u04ff]+")),
    ("armenian", re.compile("[\u0530-\u058f]+")),
    ("arabic", re.compile("[\u0600-\u06ff]+")),
    ("hindi", re.compile("[\u0900-\u097f]+")),
    ("tamil", re.compile("[\u0b80-\u0bff]+")),
)
_ENOUGH_STOP_WORDS: Final = 2


def _by_word() -> Mapping[str, tuple[str, ...]]:
    languages: dict[str, list[str]] = {}
    for name in LANGUAGES:
        for word in stop_words(name):
            languages.setdefault(word, []).append(name)
    return {word: tuple(names) for word, names in languages.items()}


def stop_words(language: str) -> frozenset[str]:
    """Words of a language, case-folded, that say nothing about what a text is about; none where none are known."""
    return _STOP_WORDS.get(language, _NO_WORDS)


def named_language(name: object) -> str | None:
    """The language that `metadata.language` names, or `None` if it names none with a stemmer.

    Args:
        name: An ISO 639-1 code, with a region or without, or an English name.
    """
    if not isinstance(name, str):
        return None
    first = re.split("[-_]", name.strip().casefold(), maxsplit=1)[0]
    language = _CODES.get(first, first)
    return language if language in LANGUAGES else None


def language_of(words: Sequence[str]) -> str:
    """The language of a text; English where nothing speaks for another.

    Args:
        words: Its words, normalized and case-folded.
    """
    text = " ".join(words)
    if not text.isascii():
        letters = sum(map(len, words))
        for name, script in _SCRIPTS:
            if 2 * sum(map(len, script.findall(text))) > letters:
                return name
    hits: dict[str, int] = {}
    for word in words:
        for name in _LANGUAGES_OF_STOP_WORD.get(word, ()):
            hits[name] = hits.get(name, 0) + 1
    most = max(hits.values(), default=0)
    return next(name for name in LANGUAGES if hits.get(name) == most) if most >= _ENOUGH_STOP_WORDS else ENGLISH


_LANGUAGES_OF_STOP_WORD: Final = _by_word()

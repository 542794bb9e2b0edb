"""Which pictures the data set "natural" is made of, where they come from, and which split each belongs to.

Chosen by eye, from contact sheets of the packages: photographs alone, no drawings, renderings, paintings, plain gradients. Of
cut-outs, those whose longer side has 40 pixels or more and that show one thing, whole, without ground below. Of each thing, one
picture, where the package has several: mirrored, recoloured, the same animal twice.

The eye has no say in which split a picture belongs to: a hash of its name decides.
"""

import hashlib
from collections.abc import Iterable

from .packages import Package

SPLITS = ("train", "validation", "test")
HELD_OUT = 0.2
"""Share of each class's things, and of the photographs, that validation and test have, each; rounded."""

STAMPS = "tuxpaint-stamps-default"
_OBJECTS: dict[str, dict[str, str]] = {
    "bird": {
        "animals/birds": "adelaide-rosella blackbird chicken_profile crow crowned_crane cuckoo drake duck gander guineafowl"
        " helmeted_guineafowl hen heron_greatblue heron_greatblue_flying lark little-penguin magellanic_penguin magpie nandou"
        " ostrich owl peacock pelican penguin pigeon pink_flamingo quetzal rainbow-lorikeet rooster seagull silver-gull tucan"
        " turkey vulture",
    },
    "hoofed-animal": {
        "animals/mammals": "giraffe pig pig_golden wildboar",
        "animals/mammals/bovines": "bison bull cow cow_white gnu-baby gnu-stand goat mountaingoat ram sheep sheep_lamb yak"
        " zebu",
        "animals/mammals/camel": "camel dromedary",
        "animals/mammals/deer": "caribou deer doe wapiti",
        "animals/mammals/equines": "donkey donkey_eating horse zebra",
    },
    "pawed-animal": {
        "animals/mammals": "badger ferret rabbit_little",
        "animals/mammals/aquatic": "otter",
        "animals/mammals/bears": "bear european-bear",
        "animals/mammals/cats": "lion lion-2 tiger",
        "animals/mammals/dogs": "dingo dog",
        "animals/mammals/rodents": "beaver capybara marmot mouse rabbit rabbit-2 rat squirrel",
        "animals/marsupials": "kangaroo wombat",
    },
    "sea-animal": {
        "animals/fish": "bluegroper butterflyfish clownfish coraltrout dolphinfish lionfish moonwrasse seahorse stripedfish",
        "animals/mammals/aquatic": "dolphin orca sea_lion whale",
    },
    "fruit": {
        "food/fruit": "Apricot_whole Cherry_Stella Strawberry2 apple_fuji apple_granny_smith apple_red apple_sierra_beauty"
        " apricot avocado banana cherimoya grapes kiwi lemon mandarine mango orange orange_seville pear pineapple pomegranate"
        " raspberry sliced_lime sliced_orange strawberry",
    },
    "vegetable": {
        "food/spices": "ginger",
        "food/vegetables": "broccoli carrot chilepepper corn eggplant garlic garlics lettuce mushroom onion pattypan_squash"
        " pepper potato pumpkin_small redlettuce tomato yam yellowpepper",
        "plants/mushrooms": "cep cep-1 cep-2",
    },
    "flower": {
        "plants/flowers": "adeenia anemone_red anthoorium appooppanthady bolsom chemparathi daffodil flower1 flower2 flower3"
        " flower4 flower5 flower6 flower7 flower8 flower9 flower10 iris marigold pigface red-gazania rose whitestar-petunia"
        " yellow-flower",
    },
    "vehicle": {
        "military/vehicles": "bradley f22_raptor infantry-stryker ww2_german_gun",
        "vehicles": "garbagetruck",
        "vehicles/auto": "beetle sedan sportscar2 truck",
        "vehicles/construction": "dumper",
        "vehicles/cycle": "pink_tricycle",
        "vehicles/emergency": "firetruck",
        "vehicles/flight/planes": "747",
        "vehicles/masstransit": "green_korean_bus",
        "vehicles/race": "indycar",
        "vehicles/ship": "chineseJunk walnutBoat",
    },
    "tool": {
        "household": "key",
        "household/arttools": "pen_dryerase scissors_small_open",
        "household/dishes/utensils": "nutcracker pepper_grinder",
        "household/tools": "hammer mallet_metal paintbrush_large plyers saw spade wrench wrench_adjustable wrench_plumbers",
        "medical": "mercurythermometer syringe",
    },
    "ball": {
        "space/moon": "moon_full",
        "space/planets": "1_mercury 2_venus 3_earth 4_mars 5_jupiter 6_saturn 7_uranus 8_neptune 9_pluto",
        "sports": "australian_rules_football basketball cricketball football soccer tennis_ball",
    },
}
"""Folders of the package of stamps, by class. What is small was merged: deer and pigs are hoofed, planets round as balls."""

_NEUTRAL = {
    "lomiri-wallpapers-16.04": "Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Wine_by_Jakkub_Mede"
    " aitzgorri_by_Aitzol_Berasategi greentock_by_Peter_Nerlich life_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi"
    " sunset_by_Aitzol_Berasategi",
    "mate-backgrounds": "Aqua Blinds Dune GreenMeadow RainDrops Storm Wood",
    "plasma-workspace-wallpapers": "BytheWater ColdRipple ColorfulCups DarkestHour FallenLeaf Grey Kite OneStandsOut Path"
    " summer_1am",
    "scikit-image": "astronaut brick camera coffee grass gravel hubble_deep_field",
    "scikit-learn": "china",
}
_TELLING = {
    "lomiri-wallpapers-16.04": "Picture_0B_by_freespace Picture_1A_by_freespace friends_by_Aitzol_Berasategi"
    " seeding_by_Clements_Engelhardt",
    "mate-backgrounds": "FreshFlower Garden LadyBird TwoWings YellowFlower",
    "plasma-workspace-wallpapers": "EveningGlow",
    "scikit-image": "chelsea rocket",
    "scikit-learn": "flower",
}
"""Photographs that show something of a class: nothing is pasted onto them, since they would need labels themselves."""

INSTALLED = {
    "scikit-image": ("CC0-1.0", "public domain"),
    "scikit-learn": ("CC-BY-2.0",),
}
"""Photographs inside Python's packages, and their licences, as the packages' documentation names them.

Left out for want of one: the motorcycle, the moon.
"""


def divided(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The names of each split, in an order that a hash decides."""
    shuffled = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    n = round(HELD_OUT * len(shuffled))
    parts = shuffled[2 * n :], shuffled[:n], shuffled[n : 2 * n]
    return {split: tuple(part) for split, part in zip(SPLITS, parts, strict=True)}


def _cutouts(folders: dict[str, str]) -> list[str]:
    return [f"{STAMPS}/{folder}/{name}.png" for folder, names in folders.items() for name in names.split()]


def _photographs(packages: dict[str, str]) -> list[str]:
    paths = {"mate-backgrounds": "nature/{}.jpg", "plasma-workspace-wallpapers": "{}/contents/images/2560x1600.jpg"}
    return [
        f"{package}/{paths.get(package, '{}.jpg').format(name)}" for package in packages for name in packages[package].split()
    ]


OBJECTS = {name: divided(_cutouts(folders)) for name, folders in _OBJECTS.items()}
"""Files of cut-outs by class and split; each begins with its package's name."""
BACKGROUNDS = divided(_photographs(_NEUTRAL))
"""Files of photographs to paste onto, by split; each begins with its package's name."""
PHOTOGRAPHS = {split: (*BACKGROUNDS[split], *names) for split, names in divided(_photographs(_TELLING)).items()}
"""These, and photographs of flowers, dogs, boats."""


def _package(name: str, version: str, path: str, size: int, sha256: str, licences: tuple[str, ...], root: str) -> Package:
    files = [file for splits in (*OBJECTS.values(), PHOTOGRAPHS) for split in SPLITS for file in splits[split]]
    pictures = tuple(sorted(file.removeprefix(f"{name}/") for file in files if file.startswith(f"{name}/")))
    return Package(name, version, f"pool/main/{path}", size, sha256, licences, root, pictures)


PACKAGES = (
    _package(
        STAMPS,
        "2022.06.04-1",
        "t/tuxpaint-stamps/tuxpaint-stamps-default_2022.06.04-1_all.deb",
        160_880_444,
        "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
        ("GPL-2",),
        "usr/share/tuxpaint/stamps",
    ),
    _package(
        "mate-backgrounds",
        "1.26.0-1",
        "m/mate-backgrounds/mate-backgrounds_1.26.0-1_all.deb",
        46_638_500,
        "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
        ("GPL-2+",),
        "usr/share/backgrounds/mate",
    ),
    _package(
        "plasma-workspace-wallpapers",
        "5.27.5-2",
        "p/plasma-workspace-wallpapers/plasma-workspace-wallpapers_5.27.5-2_all.deb",
        94_047_772,
        "32cd18b71c8c938a18b3b351f217c02ac590e323caa3cf322fbb875ce8892f8b",
        ("GPL-2+",),
        "usr/share/wallpapers",
    ),
    _package(
        "lomiri-wallpapers-16.04",
        "20.04.0-2",
        "l/lomiri-wallpapers/lomiri-wallpapers-16.04_20.04.0-2_all.deb",
        15_783_184,
        "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab",
        ("CC-BY-4.0", "CC-BY-SA-4.0", "CC0-1.0"),
        "usr/share/backgrounds",
    ),
)
"""Of Debian 12, bookworm."""

"""Words of the storybook for two worlds, home (children) and woods (animals).

Every list is a line of words or a block of lines; ``|`` separates the parts of an entry. The name of a person is not
used for anything else ("Button" is not a name, because buttons are found under sofas).
"""

# Each person is the same in every story: Rory is always a fox, and his elder is Mr. Toad. With six of each kind, a
# small model learns them quickly.
GIRLS = """
Lily the dancer and Mom, Mia the singer and Grandma, Anna the gardener and Grandpa, Emma the baker and Aunt May,
Amina the painter and Uncle Joe, Yuki the climber and Dad
"""

BOYS = """
Tom the drummer and Dad, Ben the builder and Grandpa, Sam the swimmer and Mom, Leo the runner and Aunt May,
Omar the cook and Grandma, Diego the dreamer and Uncle Joe
"""

SHE_ANIMALS = """
Dot the mouse and Old Owl, Hazel the squirrel and Mrs. Goose, Ginger the cat and Mr. Toad,
Pippa the rabbit and Grandma Hen, Olive the otter and Old Turtle, Tilly the hedgehog and Uncle Heron
"""

HE_ANIMALS = """
Pip the hamster and Grandma Hen, Bramble the badger and Old Turtle, Rory the fox and Mr. Toad,
Barley the mole and Mrs. Goose, Otto the beaver and Uncle Heron, Twig the hare and Old Owl
"""

# A word that is listed twice is drawn twice as often.
HEROES_ARE = """
little little little little small small young young kind curious gentle clever quiet playful
"""

FRIENDS_HAVE = """
with a red hat
with a green scarf
with big glasses
with muddy boots
with a blue coat
with a yellow bag
with bright eyes
with a warm smile
with a funny laugh
with a soft voice
"""

HOMES = {
    "home": """
a yellow house by the sea
a small house on a hill
a tall house in a busy town
a cottage on a green lane
a little house with a red door
an old house near the park
a white house beside the river
a house full of books
a flat above the bakery
a village by a lake
a farmhouse with many animals
a blue house on a quiet street
a house with a crooked chimney
a little town between two mountains
""",
    "woods": """
a cozy burrow under an oak tree
a little house in the forest
a hollow log beside the stream
a snug den under the hill
a tiny house made of sticks
a green meadow behind the mill
a nest of leaves near the pond
a hole under a tall pine tree
a round house near the woods
a quiet valley full of flowers
a warm hole under a hedge
a mossy cave near the waterfall
an old barn behind the orchard
a wooden hut on an island
""",
}

DAYS = """
One day
One day
One sunny morning
One windy afternoon
One bright spring day
One cool autumn morning
One warm summer day
One quiet afternoon
One cloudy morning
One fine day
One Sunday morning
One Monday afternoon
One lovely day
Early one morning
"""

COLORS = "red blue green yellow purple orange pink white golden silver striped spotted tiny little old new"

# A hyphen is a space in the story.
THINGS = """
kite ball doll drum scarf hat lantern whistle marble umbrella blanket bell basket flute toy-boat teddy-bear
music-box toy-horse paper-crown toy-train cup pillow picture-book spinning-top toy-car bucket rattle puppet
ribbon backpack
"""

TREATS = {
    "home": """
cookies pancakes muffins strawberries apples cherries plums pears buns waffles grapes peaches pretzels cupcakes
""",
    "woods": """
blackberries nuts apples cherries plums pears honey-cakes strawberries acorns mushrooms blueberries carrots chestnuts
raspberries
""",
}

CONTAINERS = "a basket of, a bowl of, a bag of, a plate of, a box of"

# place to go to | place to be at
PLACES = {
    "home": """
the park | in the park
the beach | at the beach
the garden | in the garden
the playground | at the playground
the river | by the river
the meadow | in the meadow
the lake | by the lake
the farm | at the farm
the hill | on the hill
the orchard | in the orchard
the market square | in the market square
the school yard | in the school yard
""",
    "woods": """
the meadow | in the meadow
the pond | by the pond
the stream | by the stream
the hill | on the hill
the clearing | in the clearing
the wooden bridge | by the wooden bridge
the waterfall | near the waterfall
the orchard | in the orchard
the berry patch | in the berry patch
the lake | by the lake
the old mill | at the old mill
the willow trees | under the willow trees
""",
}

SPOTS = {
    "home": """
under the bed
behind the sofa
behind the toy box
under the kitchen table
behind the curtain
in the garden shed
under the apple tree
beside the sandbox
on the stairs
behind the laundry basket
behind the front door
next to the mailbox
under the swing
on the porch
in the wheelbarrow
between the tomato plants
""",
    "woods": """
under the old oak
behind the big rock
beside the pond
in the hollow log
between the ferns
under the blackberry bush
near the waterfall
in the tall grass
on the mossy stump
behind the hedge
under a pile of leaves
by the wooden bridge
in the clover field
next to the mushrooms
at the foot of the hill
inside the old barn
""",
}

"""The last of the storybook's plots: small wonders. ``storybook.py`` explains the notation."""

WONDERS = """
= seed

@ a_seed | seed | grown | share
a sunflower seed | seed | a sunflower, taller than the door | All summer long, it turned its yellow face to the sun
a bean | bean | a bean plant that climbed right up to the roof | There were so many beans that everyone got a bowl full
a pumpkin seed | seed | a pumpkin as big as a chair | They made it into soup, and the pot lasted for a week
a tulip bulb | bulb | a red tulip with drops of dew on it | Everybody came to see it, and even the bees were pleased
a strawberry seed | seed | a strawberry, small and red and sweet | More came every day, and nobody went without
a tiny carrot seed | seed | a carrot that was longer than {his} arm | It was so sweet that nobody wanted any cake
a dry little pea | pea | a green wall full of peas | They shelled them together and sang
a lemon seed | seed | a little tree with shiny leaves | It smelled so good that everyone stopped to sniff it

> opening

- {Day}, {Elder} gave {him} {a_seed}. "Something wonderful is hiding in there," said {Elder}.
- {Day}, {he} found {a_seed} {spot}. "Plant it," said {Elder}, "and you will see something wonderful."

- {Hero} dug a small hole behind the house, gave it some water, and sat down to wait.
- {He} put it into the ground in front of the house, covered it with earth, and watered it well.

¶
- The next day, {he} ran outside. Nothing! The day after that, there was nothing, either.
- {He} looked every morning and every evening. But there was only brown earth.

3- ~
- "Grow!" {he} shouted. "Please grow!" But nothing happened.
- {He} sang to it and danced for it. But nothing happened.
- "Maybe I should dig it up and look," {he} said.

- "Give it time," said {Elder}. "It is busy where you cannot see it."
- "Good things need time," said {Elder}. "You can water it, and you can wait."
- "Every day it gets a little stronger under the ground," said {Elder}. "Just be patient."

- So {Hero} waited. It rained, and the sun shone, and it rained again.
- So {he} waited one week, and then another, and {he} never forgot the water.

¶
- Then, one morning, there was a tiny green tip. "It is here!" shouted {Hero}. {He} danced around it.
- And then, one day, a little green leaf was looking out of the ground. {Hero} did not dare to breathe.

- It grew and grew. In the end it was {grown}.
- Each day it was a bit bigger, until there was {grown}.

- {share}.
- {His} friend {Friend} came to see it. {share}.

2- ~
- "You did well," said {Elder}. "You gave it water, and you gave it time."
- {Hero} kept one new seed for the next year. {He} knew how to wait now.
- And {Hero} learned that good things grow slowly.
- "What shall we plant next?" asked {Hero}.

= sleep

> opening

- One night, {he} could not sleep. {He} turned to the left, and {he} turned to the right.
- It was late, and everyone was asleep. Only {Hero} was wide awake.
- One night, {Hero} lay in bed, but sleep did not come.

- {He} counted sheep, but the sheep kept jumping the wrong way.
- {He} drank a glass of water. Then {he} drank another one. It did not help.
- {He} closed {his} eyes as tight as {he} could, but they popped open again.
- {He} tried to count the stars, but there were too many of them.

¶
- So {he} got up and went to {Elder}. "I cannot sleep," {he} said. "My head is full of thoughts."
- "Are you still awake?" asked {Elder} softly. "My thoughts are too loud," said {Hero}.

- {Elder} sat down beside {him}. "Then let us give your thoughts a bed, too," said {Elder}. "What was the nicest
  thing today?"
- {Elder} lit a candle. "Tell me what was good today," said {Elder}, "and put every good thing under your pillow."

- {Hero} thought about it. "I played with {Friend} {at_place}," {he} said. "And I ate {treats}, and I found
  {a_thing}."
- {Hero} smiled in the dark. "I saw a bird {at_place}," {he} said. "And {Friend} made me laugh. And there were
  {treats} for supper."
- {Hero} did not have to think for long. "{Friend} and I went to {place}," {he} said. "We shared {a_treats}, and the
  sun was warm."

2- ~
- {Elder} nodded. "And what else?" {Hero} smiled. "You said good night to me," {he} whispered.
- {Elder} nodded. "That was a good day," said {Elder}. "Yes," said {Hero}, and {his} voice was getting slow.

¶
- {Elder} sang a quiet song about the moon and the sea. {Hero} yawned.
- {Elder} pulled up the blanket and stroked {his} head. {Hero} gave a long, long yawn.
- Outside, the wind was humming in the trees. {Hero}'s eyes grew heavy.

- One thought after another lay down to rest. And then {Hero} was asleep.
- Before {he} knew it, {Hero} was fast asleep.
- "Good night," said {Elder}. But {Hero} did not hear it. {He} was already dreaming.

2- ~
- In {his} dream, {he} flew over the treetops, all the way to the moon.
- And the moon looked in at the window and smiled.
- And tomorrow would be another good day.
- Sleep well, little {hero}.

= greedy

> opening

- {His} favorite food was {treats}. {He} could never get enough of them.
- {He} loved {treats}. {He} could have eaten them all day long.

¶
- {Day}, {Elder} brought {a_treats} for the party tonight. "You may have two now," said {Elder}.
- {Day}, there was {a_treats} on the table. "Take two," said {Elder}. "The rest is for our guests tonight."

- {Hero} ate two. They were so good! "One more will not matter," {he} said.
- {Hero} took two. Nobody was looking, so {he} took one more.

- One more, and one more. Soon all the {treats} were gone.
- And another, and another, until there were no {treats} left.

¶
- Then {his} tummy began to hurt. "Ow, ow!" cried {Hero}, and {he} lay down {spot}.
- "Oh, my tummy!" {he} groaned. It was as round as a ball, and it hurt.

- Soon {Friend}, {a_friend}, came to the party. "Where are the {treats}?" {f.he} asked.
- When {Friend}, {a_friend}, came to the party, there were no {treats}.

- {Hero}'s face turned red. "I ate them all," {he} said. "I am sorry."
- {Hero} looked down. "It was me," {he} said. "I am so sorry."

- {Elder} nodded slowly. "Then we will make new ones," said {Elder}, "and you will help."
- {Elder} looked at {him}. "That was not right," said {Elder}. "But we can get some more, if you help us."

¶
- {Hero} worked hard, and everyone got a full plate.
- Soon there was a new bowl of {treats}, and {Hero} served everyone.

2- ~
- "None for you?" asked {Friend}. "No, thank you," said {Hero}, and everybody laughed.
- "One for you," said {Hero}, "and one for you." {He} did not take any for {himself}.

- From then on, {Hero} knew when it was time to stop.
- {Hero} learned that enough is better than too much.
- It was a lovely party after all.
- And when {Elder} said two, {he} took two.

= box

@ a_box | box | open | inside | lesson
a small wooden box | box | The lid was stuck, but they pulled together, and it opened with a squeak
  | a little mirror and a note. "Look inside, and you will see a treasure," it said | "I see us!" said {Friend}
a rusty tin | tin | They rubbed off the rust and turned the lid
  | a whole bag of seeds. "Plant me," said a note
  | They planted them that same day, and by summer there were flowers everywhere
a blue bottle | bottle | They pulled out the cork with a pop
  | a letter from far away. "I wish you a friend," it said | "Your wish came true," said {Hero} to the letter
an old suitcase | suitcase | They pressed the two locks, and click, it was open
  | a heap of hats and capes and a long white beard | They put on a play that evening, and {Elder} laughed the most
a chest with a golden lock | chest | They found the key on a nail nearby, and it turned with a click
  | a pile of old drawings. They had been made by {Elder}, long ago | "I was little once, too," said {Elder}, and
  smiled
a leather bag | bag | They untied the string with careful fingers
  | a map with a red cross on it
  | They followed it, and at the cross they found {Elder}, waiting for them with a picnic

> opening

- {He} always wanted to know what was inside of things.
- {He} dreamed of finding a real treasure one day.

¶
- {Day}, {he} was playing {spot} when {he} bumped into something hard. It was {a_box}.
- {Day}, {he} looked {spot} and saw {a_box}. It had not been there before.

2- ~
- "What can be inside?" {he} wondered. {He} shook it a little. Something moved!
- {He} held it to {his} ear and listened. Something was inside!

- {He} ran to {Friend}, {a_friend} who lived nearby. "Look what I found!" {he} called.
- {He} wanted to open it at once. But it is more fun with two, so {he} called {Friend}, {a_friend}.

2- ~
- "Maybe it is gold," said {Friend}. "Maybe it is a sleeping dragon," said {Hero}.
- "I think there is a crown in it," said {Friend}. "I think there are {treats} in it," said {Hero}.

¶
- {open}. Inside was {inside}.
- They sat down {at_place}. {open}. There was {inside}.

- They looked at each other in surprise. {lesson}.
- At first they did not know what to say. {lesson}.

2- ~
- "That is better than gold," said {Friend}.
- {Hero} kept the {box} beside {his} bed for many years.
- "What a treasure!" said {Hero}. And {he} did not mean the {box}. {He} meant the day.
- Then they put something nice into the {box} and hid it again, for someone else to find.

= build

@ a_tower | tower | wreck
a tower of blocks | tower | a bird landed on top of it, and it all fell down
a sandcastle | castle | a big wave washed it away
a house of cards | house | somebody sneezed, and it all fell down
a hut of sticks | hut | a strong wind blew it over
a dam of stones | dam | the water broke through it with a splash
a tower of pillows | tower | it leaned to one side and came down with a plop
a boat of bark | boat | it tipped over and sank
a bridge of twigs | bridge | a fat pigeon sat down on it, and it cracked

> opening

- {He} loved to build things. {He} could build all day long.
- {He} was always building something, big or small.

¶
- {Day}, {he} was building {a_tower}. It was the best one {he} had ever made.
- {Day}, {he} worked all morning on {a_tower}. It was almost finished.

- Just then, {wreck}.
- "Only one more piece," {he} said. But at that moment, {wreck}.

- All the work was gone. {Hero} wanted to shout, and {he} wanted to cry, so {he} did both.
- "No, no, no!" cried {Hero}. "I will never build anything again!"

¶
> friend comes

- "My {tower} is gone," said {Hero}. "Now you know how to do it even better," said {Friend}.
- "It was beautiful," said {Friend}. "Will you show me how you made it?"

- {Hero} thought about it. Then {he} wiped {his} nose. "This time we will use bigger pieces," {he} said.
- {Hero} had to smile. "Well, it did wobble a bit," {he} said. "We could make it wider this time."

2- ~
- {Friend} held, and {Hero} built. Little by little, a new {tower} grew.
- They worked side by side. {Friend} brought the pieces, and {Hero} put them together.

¶
- The new {tower} was bigger and stronger than the first one. They put a little flag on it.
- In the evening it was done. "It is twice as good!" said {Friend}.

2- ~
- And the next time that something fell down, {Hero} only laughed and began again.
- "I am glad that the first one fell," said {Hero}. "Now we have built one together."
- {Elder} came and clapped. "You only lose when you do not start again," said {Elder}.
- They sat down in front of it and ate {a_treats}, and they were very proud.

= star

@ wish | comes
have an adventure | they took a wrong turn and walked through three strange valleys before they were home again
go on a long journey | a letter came. "Come and visit me," it said, and they packed their bags at once
fly | they sat on the big swing, and {Friend} pushed and pushed until {Hero} could touch the clouds with {his} toes
meet a giant | {Elder} put on long stilts and a tall hat, and a giant walked through the garden
wear a crown | {Friend} made {him} a crown of flowers, and everybody bowed and laughed
hear a new story | an old traveler knocked at the door, and he knew a hundred stories
see snow | soft white flakes began to fall, and by noon the whole world was white
find a treasure | {he} tripped over a root, and under it lay a shining coin

> opening

- {He} had a dream. {He} wanted to {wish}.
- Deep in {his} heart, {he} wished to {wish}.

¶
- One night, {he} sat outside with {his} friend {Friend}, {a_friend}. A star fell from the sky.
- One clear night, {he} and {his} friend {Friend}, {a_friend}, were looking up at the sky. A star fell down.

- "Quick, make a wish!" said {Friend}. {Hero} closed {his} eyes. "I wish to {wish}," {he} whispered.
- {Hero} held {his} breath and wished with all {his} might. "What did you wish for?" asked {Friend}.
  "I want to {wish}," said {Hero}.

¶
- The next day, nothing happened. "The star did not hear me," said {Hero}.
- {Hero} waited for one day, and for two days. "Maybe it was the wrong star," {he} said sadly.

2- ~
- "Stars are slow," said {Elder}. "And sometimes they need a little help from friends."
- "Wishes have a long way to go," said {Friend}. "They have to walk all the way from the sky."

- And then, on the third day, {comes}.
- But the very next morning, {comes}.

¶
- "My wish came true!" shouted {Hero}, and {he} turned around and around until {he} was dizzy.
- {Hero} laughed and could not stop. "Thank you, star!" {he} called up to the sky.

2- ~
- "And what did you wish for?" {he} asked {Friend}. "I wished that your wish would come true," said {Friend}.
- That night, {he} looked for the star, but its place was empty. "It is resting," said {Friend}.
- {Hero} never forgot that day, not even when {he} was very old.
- Then they ate {a_treats} and looked up at the sky, where all the other wishes were waiting.

= hat

@ landing | use
on the head of an old scarecrow | He looks so happy with it
in a tree, and a bird sat down in it | It makes such a good nest
in the pond, and a frog climbed into it | It makes such a good boat
in the grass, and a snail crept under it | It makes such a good house
next to a pumpkin, and two mice moved in | It makes such a good bedroom
on the horn of a cow, and the cow looked very proud | It suits her so well

> opening

- {Elder} had made {him} {a_color}hat, and {he} was very proud of it.
- {He} had {a_color}hat, and {he} wore it every day.

¶
- One windy day, whoosh! The wind took the hat off {his} head and carried it away.
- But one day the wind came, and, whoosh, the hat was gone.

- {Hero} ran after it, over the fence and through the field. "Stop, hat!" {he} called.
- It flew over {place} and over the trees, and {Hero} ran after it as fast as {he} could.

- At last it landed {landing}.
- It turned in the air three times and landed {landing}.

¶
- {Hero} wanted to take it back. But then {he} stopped. "{use}," {he} said.
- {Hero} looked at it for a while, and {he} began to smile. "{use}," {he} said.

- So {he} left the hat where it was and went home without it.
- "You can keep it," {he} said, and {he} waved goodbye to the hat.

- "Are you not sad?" asked {Elder}. {Hero} shook {his} head. "It is happy there," {he} said.
- {Elder} made {him} a new hat that same evening, and this one had two strings to tie it on.
- And whenever the wind blows, {Hero} says hello to {his} old hat.

= ill

> opening

- {Day}, {Elder} was ill and had to stay in bed.
- {Day}, {Elder} did not get up. "I have a cold," said {Elder} in a tired voice.

- "I will take care of you," said {Hero}.
- {Hero} wanted to help. "Today I will be the doctor," {he} said.

¶
- First {he} brought a warm blanket and a cup of tea.
- First {he} cooked some soup. It was too salty, but {Elder} ate it all.
- First {he} brought {a_treats}, the best that {he} could find.

- Then {he} told a long story about {a_thing} that could talk.
- Then {he} sang a song. {Friend}, {a_friend}, heard it and came to sing along.
- Then {he} picked flowers {at_place} and put them next to the bed.

2- ~
- {Elder} sneezed three times, and each time {Hero} said, "Bless you!"
- All afternoon {he} sat by the bed and did not go out to play.

¶
- In the evening, {Elder} sat up and smiled. "I feel much better," said {Elder}. "You are a good doctor."
- The next morning, {Elder} was up before the sun. "What good medicine that was!" said {Elder}.

- {Hero} laughed. "It was only love," {he} said.
- {Hero} was so happy that {he} jumped up and down on the bed.
- {Hero} yawned. "Now I am tired," {he} said, and {he} fell asleep in {Elder}'s arms.
"""

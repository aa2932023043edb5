"""The second half of the storybook's plots: stories of growing up. ``storybook.py`` explains the notation."""

GROWING_UP = """
= brave

@ fear | When | trouble | dare | relief
the dark | One dark night | could not find {f.his} way home | took a lantern and stepped out into the night
  | The shadows were only bushes, and the stars were shining.
thunder | One stormy evening | was sitting under a tree, all wet and scared | ran out into the storm
  | The thunder was loud, but it did not hurt {him}.
the old bridge | One windy afternoon | had hurt {f.his} foot on the other side of the river
  | walked over the old bridge, one small step after another | The bridge creaked a little, but it was strong.
the cellar | One evening | had fallen asleep in the cellar, and the door had shut behind {f.him}
  | went down the steps into the cellar | There were no monsters, only apples and jars of jam.
high places | One breezy morning | was stuck at the top of a tree | climbed up, branch by branch
  | The wind was soft, and {he} could see all the way to the sea.
the big geese | One hot afternoon | could not get past the big geese by the gate
  | walked right up to the geese with {his} head held high | The geese only wanted some bread.
the fog | One foggy morning | had lost {f.his} way in the fields | walked out into the thick white fog
  | It was only a cloud that had come down to rest.

> opening

- {He} had a secret: {he} was afraid of {fear}.
- There was only one thing {he} did not like, and that was {fear}. It made {his} knees shake.
- {He} was afraid of {fear}, but {he} did not tell anyone.

¶
- {When}, {he} heard a voice. "Help! Help!" It was {Friend}, {a_friend}. {Friend} {trouble}.
- {When}, somebody called {his} name. It was {his} friend {Friend}, {a_friend}. {Friend} {trouble}.

3- ~
- {Hero}'s heart beat fast. "I am scared," {he} whispered, "but {Friend} needs me."
- {Hero} wanted to hide under {his} blanket. But {Friend} was {his} friend, and friends help each other.
- There was nobody else to help. {Hero} took a deep breath. "I can do this," {he} told {himself}.

- So {Hero} {dare}. {relief}
- {Hero} counted to three. Then {he} {dare}. {relief}

¶
- "You came!" cried {Friend}. "I knew you would." {Hero} took {f.him} by the {hand}, and together they went home.
- When {Friend} saw {him}, {f.he} smiled. "I am not scared when you are here," {f.he} said.
- {Hero} found {Friend} and hugged {f.him}. They sang a song all the way home.

- "Were you not afraid?" {Elder} asked later. "I was," said {Hero}, "but I went anyway."
  {Elder} smiled. "That is what brave means," said {Elder}.
- Later, {Hero} told {Elder} all about it. "I was so afraid," {he} said. {Elder} smiled. "You can be afraid and brave
  at the same time."
- {Elder} gave them warm milk with honey. "What a brave friend you have," said {Elder} to {Friend}.

- From then on, {Hero} was not afraid of {fear} anymore.
- And the next time {he} thought of {fear}, {his} knees did not shake at all.
- That night {Hero} slept well and dreamed of new adventures.

= skill

@ skill | fail | tip | win
whistle | Only air came out. | Make your lips small and round | And a clear, bright whistle rang through the air.
swim | {He} splashed about and swallowed a lot of water. | Kick your legs like a frog
  | And {he} glided through the water like a little boat.
catch a ball | The ball always landed on the ground. | Look only at the ball | And the ball landed right in {his} arms.
paint a rainbow | All the colors ran together and turned brown. | Let one color dry before the next
  | And seven bright colors shone on the paper.
tie a bow | The ribbon came loose at once. | Make one loop, and then make another | And there was a neat little bow.
ride a bike | {He} tipped over and fell in the grass. | Look ahead and not at your feet
  | And {he} rode all the way around the garden.
bake bread | The bread came out black and hard as a stone. | Do not hurry, and watch the oven
  | And the bread was golden, and the whole house smelled wonderful.
play the flute | The flute squeaked like a mouse. | Blow softly, as if you were cooling your soup
  | And a sweet little song floated out of the flute.
fly a kite | The kite fell flat on its nose. | Run against the wind and then let go
  | And the kite danced high above the trees.
do a headstand | {He} fell over like a sack of flour. | Keep your legs straight and look at one spot
  | And there {he} was, with {his} feet in the air like a candle.
make a stone hop over the water | The stone sank with a plop. | Take a flat stone and throw it low
  | And the stone hopped once, twice, three times, four times!
read | The letters danced in front of {his} eyes like ants. | Take one letter at a time
  | And suddenly the letters stood still and told {him} a story.
jump rope | {His} feet got caught in the rope. | Count out loud and jump on every number
  | And {he} jumped twenty times without stopping.
tell a joke | {He} forgot the end, and nobody laughed. | Go slowly, and save the best part for last
  | And everyone laughed until they had to hold their tummies.

> opening

- More than anything, {he} wanted to learn to {skill}.
- {He} had one big wish: {he} wanted to {skill}.
- All {his} friends could {skill}, but {Hero} could not.

¶
- {Day}, {he} tried it for the first time. {fail}
- {Day}, {he} began to practice. {fail}
- "Today I will {skill}," {he} said. {fail}

2- ~
- {He} tried again and again, but it just did not work.
- {He} tried a second time, and a third time. It only got worse.

- ~
- "I will never learn it!" {he} cried, and {he} stamped {his} foot.
- {Hero} was so cross that {he} wanted to give up.
- {He} sat down {spot} and hid {his} face in {his} {hands}.

¶
- {Elder} had seen it all. "It took me a hundred tries," said {Elder}. "{tip}. And do not give up."
- "May I tell you a secret?" asked {Elder}. "{tip}. The rest is practice."
- {Friend}, {a_friend}, sat down next to {him}. "I could not do it at first, either," said {Friend}. "{tip}."

- {Hero} wiped {his} face and tried once more. It was better than before. So {he} tried again. {win}
- {Hero} practiced the next day, and the day after that. Then, one morning, {he} tried again. {win}
- {Hero} nodded. {He} took a deep breath and did it very slowly. {win}

¶
- "I did it! I did it!" {he} shouted, and {he} ran to show everybody.
- "Look at me!" {he} called. {He} was so proud that {he} did it ten more times.
- {His} heart jumped for joy. "I can do it!" {he} sang.

2- ~
- And {Hero} never forgot that every master was once a beginner.
- Soon {he} was teaching all the little ones. "Do not give up," {he} always told them.
- "You see," said {Elder}, "you only fail when you stop trying."
- Now {Hero} had a new wish. But that is another story.

= truth

@ a_treasure | treasure | crash
{Elder}'s blue vase | vase | Crash! The vase lay on the floor in three pieces.
{Elder}'s favorite cup | cup | Clink! The cup lost its handle.
a big jar of honey | jar | Splat! There was honey everywhere.
the best flower pot | flower pot | Smash! There was dirt all over the floor.
the old clock | clock | Clang! The clock fell down and stopped ticking.
a tall glass lamp | lamp | Crash! The lamp fell over and broke.
the round mirror | mirror | Crack! A long line ran right across it.

> opening

- "Please do not run inside," {Elder} always said. But {Hero} forgot it all the time.
- {He} loved to run and jump and dance, even inside, where it was not allowed.

¶
- {Day}, {he} ran around the table and bumped into {a_treasure}. {crash}
- {Day}, {he} was dancing about like a wild horse and knocked over {a_treasure}. {crash}

- Nobody had seen it. {Hero} covered the {treasure} with a cloth and ran away.
- "Oh no," {he} whispered. {He} hid the {treasure} {spot} and told nobody.

- But {his} tummy hurt, and {he} could not eat even one of the {treats}.
- All day long {he} felt bad. {He} did not want to play or sing.
- That night {he} could not sleep. {He} kept hearing that terrible sound.

¶
- "Has anyone seen the {treasure}?" asked {Elder}. {Hero} wanted to say that it was the wind. But it was not true.
- Then {Elder} asked, "Do you know what happened to the {treasure}?" {Hero} could have said no.

- "It was me," {he} said in a small voice. "I broke it, and I hid it. I am so sorry."
- {He} looked at {his} feet. "I did it," {he} said, and a tear fell on the floor.

- {Elder} was quiet for a moment. Then {he} felt two warm arms around {him}. "Thank you for telling me," said {Elder}.
- {Elder} took {his} {hand}. "I am sad about the {treasure}," said {Elder}, "but I am glad that you told the truth."

¶
- They cleaned everything up together, and the bad feeling in {his} tummy was gone.
- Then they fixed the {treasure} with glue. It was not perfect, but {Elder} liked it better now.

2- ~
- {Elder} smiled. "Things can be mended," said {Elder}. "The truth matters more."
- {Hero} learned that the truth makes a heavy heart light again.
- And from that day on, {Hero} did {his} running outside.
- That night {Hero} slept deep and well.

= rescue

@ bug | finds | help | thanks
bee | a tiny bee with wet wings, lying in a puddle | held out a leaf and lifted the bee into the sun
  | the bee showed {him} the place where the sweetest berries grew
baby bird | a baby bird that had fallen out of its nest | climbed up and put it back next to its brothers
  | the bird sat on {his} window and sang {him} the loveliest song
ladybug | a ladybug that was lying on its back | turned it over with a blade of grass
  | the ladybug came back and landed on {his} nose to say hello
snail | a little snail in the middle of a busy path | carried it to a soft green leaf on the other side
  | there was a shining heart of silver in front of {his} door
butterfly | a butterfly that was caught in a thorn bush | set it free, one thorn at a time
  | a hundred butterflies danced around {his} head
duckling | a duckling that had lost its mother | opened the gate and led it back to the pond
  | the whole duck family called "Quack!" when {he} walked by
firefly | a firefly that was trapped in an old jar | took off the lid
  | the firefly came back and lit up {his} window like a star
turtle | a small turtle that had rolled onto its back | turned it over very gently
  | the turtle gave {him} a ride around the pond
fish | a small fish in a puddle that was drying up | carried it to the river in {his} {hands}
  | the fish jumped high out of the water and waved with its tail

> opening

- {Day}, {he} was walking to {place} when {he} heard a tiny voice.
- {Day}, {he} was playing {at_place}. "Help," said somebody very softly.

- {He} looked up, and {he} looked down. Then {he} found {finds}.
- At first {he} saw nothing. Then {he} looked down. There {he} saw {finds}.

¶
- "Please help me," said the {bug}. "Everyone just walks by."
- "I cannot do it alone," said the {bug}. "I am too small."
- The {bug} looked up at {him} and did not move.

3- ~
- Then {Friend}, {a_friend}, came by. "It is only a {bug}," said {Friend}. "But it needs us," said {Hero}.
- {Hero} was in a hurry, because {Elder} was waiting. But {he} could not just leave the little {bug} there.
- {Hero} bent down. "Do not be afraid," {he} said. "I will be very careful."

- Slowly and carefully, {he} {help}.
- {He} thought hard. Then {he} {help}.

- "Thank you," said the {bug}. "I will not forget you." And then it was gone.
- "There you go, little friend," {he} said. The {bug} looked back once, and then it was gone.

¶
- {Hero} soon forgot about it. But a few days later, {thanks}.
- Many days went by. Then, one morning, {thanks}.
- {Hero} thought of it from time to time. Then something wonderful happened: {thanks}.

- ~
- "You remembered me!" said {Hero}, and {he} laughed with joy.
- {Hero} could hardly believe it. "My little friend!" {he} cried.

- No one is too small to need help, and no one is too small to say thank you.
- "When you are kind," said {Elder}, "it always comes back to you."
- And the two of them were friends for a long, long time.
- From then on, {Hero} always watched where {he} put {his} feet.

= gift

@ plan | wrong | love
bake a cake | The cake came out as flat as a plate | I have always wanted to eat a cake that looks like the moon
paint a picture | A glass of water fell over, and all the colors ran | It looks just like the sky in the evening
make a necklace of shells | The string broke, and the shells rolled everywhere
  | Now we can look for them together, like a treasure hunt
write a song | {He} forgot most of the words and could only hum | I can hum it with you, and I will never forget it
pick a bunch of flowers | The wind blew all the petals away | We will plant the seeds and have flowers all year long
knit a scarf | The scarf came out much too long | It is long enough for the two of us
build a birdhouse | The birdhouse came out crooked | Look, a bird is moving in already
carve a spoon | The spoon got smaller and smaller | It is just the right size for honey
sew a pillow | The pillow came out with a big lump on one side | The lump is the best place for my head
cook a soup | The soup turned bright blue | Blue is my favorite color, and it tastes good, too
make a paper lantern | The lantern got a hole in it | The light that comes through it looks like a star

> opening

- Soon it was {Elder}'s birthday, and {Hero} wanted to {plan} as a surprise.
- {Day}, {he} remembered that it was {Elder}'s birthday. "I will {plan}," {he} said.

2- ~
- {He} worked on it all morning. It had to be the best present in the world.
- {He} worked on it in secret, so that nobody would see it.

¶
- But then everything went wrong. {wrong}.
- It was almost done when it happened. {wrong}.

- "Now it is spoiled!" {he} cried. "I have nothing to give."
- {Hero} looked at it and wanted to cry. "This is the worst present ever," {he} said.

- Then {Friend}, {a_friend}, came by. "You should still give it to {Elder}," said {Friend}. "You made it, and that is
  what counts."
- There was no time to start again, and there was already a knock at the door. It was {Elder}.
- Then {Friend}, {a_friend}, put an arm around {him}. "Be brave," said {Friend}. "Show it to {Elder}."

¶
- So {Hero} held it out with shaking {hands}. "It did not come out right," {he} said.
- "Happy birthday," whispered {Hero}. "I am sorry that it is not pretty."

- {Elder} looked at it for a long time and began to smile. "{love}," said {Elder}.
- {Elder} looked at it, and then at {Hero}. "{love}," said {Elder}.

- "And it is the best present I have ever had, because you made it for me."
- Then {Elder} hugged {Hero} so tight that {he} had to giggle.

2- ~
- And they ate {treats} together until it was time for bed.
- {Hero} learned that a present is perfect when it is made with love.
- {Elder} never forgot that birthday, and {Hero} did not, either.
- {Hero} beamed. "Next year I will do it again," {he} said, "and it will be even better!"

= sound

@ sound | guess | truth
Tap, tap, tap | a ghost | It was a little branch that was tapping on the window in the wind.
Whooo, whooo | a monster | It was only the wind, singing in an empty bottle.
Plip, plop, plip | a giant with wet feet | It was the rain, dripping from the roof into a bucket.
Rrrr, rrrr | a dragon | It was {Elder}, snoring in a big soft chair.
Squeak, squeak | a goblin | It was the old gate, swinging in the wind.
Scratch, scratch | a wolf | It was a beetle that was trying to climb out of a box.
Thump, thump | a troll | It was an apple tree, dropping its apples one by one.
Ding, ding | a pirate | It was a goat with a bell around its neck.
Hoo, hoo | a spirit | It was a baby owl that was looking for its mother.

> opening

- One night, {he} woke up. There was a strange sound outside {his} room. "{sound}!"
- One night, {he} was lying in bed when {he} heard it. "{sound}!"
- One evening, {he} was almost asleep. Then something went, "{sound}!"

- {Hero} pulled the blanket over {his} head. "What if it is {guess}?" {he} thought.
- {He} sat up. "That must be {guess}!" {he} thought, and {he} did not dare to move.

2- ~
- But the sound did not stop. "{sound}!" it went again.
- {He} waited and waited. "{sound}!" There it was again.

¶
- {Hero} woke {his} friend {Friend}, who was staying for the night. "Do you hear that?" {he} whispered.
  {Friend} nodded.
- In the other bed slept {Friend}, {a_friend} who was visiting. "Wake up," whispered {Hero}. "I hear {guess}!"

- {Friend} sat up. "Let us go and look," {f.he} said. "Together we are brave." They took a lantern and crept to the
  door.
- Then {Friend} said, "If we never look, we will never know." So they tiptoed outside, {hand} in {hand}.

- They looked {spot}. Nothing. They looked {spot2}. Nothing. "{sound}!" It was very close.
- Step by step, they followed the sound. "{sound}!" It grew louder and louder.

- And what did they see? {truth}
- They looked around the corner. {truth}

¶
- "And I thought it was {guess}!" said {Hero}. They laughed so hard that they had to sit down.
- {Friend} began to giggle, and soon they were both rolling on the floor with laughter.

2- ~
- Then they went back to bed and slept until morning.
- "Things are only scary until you know them," said {Friend}.
- After that, {Hero} liked the sound. It helped {him} fall asleep.
- Back in bed, they told each other funny stories about {guess}.

= hide

> opening

- {Day}, {he} played hide and seek with {Friend}, {a_friend}.
- {He} loved to play hide and seek. {Day}, {he} played it with {Friend}, {a_friend}.

¶
- {Hero} counted to ten and began to look. {He} looked {spot}. Nobody. {He} looked {spot2}. Nobody.
- "Ready or not, here I come!" called {Hero}. {He} looked {spot}, but {Friend} was not there. {He} looked {spot2}, but
  {Friend} was not there, either.

2- ~
- "Where can {f.he} be?" {Hero} wondered. It was getting late.
- "Come out, {Friend}!" {he} called. "I give up!" But nobody came.

¶
- Then {he} heard a soft snore. {Friend} was lying {spot3}, fast asleep!
- Then {he} saw a foot. It belonged to {Friend}, who was sleeping {spot3}!

- {Hero} tickled {f.his} nose. "Did I win?" asked {Friend} with a yawn.
- "Wake up, sleepyhead," said {Hero}. {Friend} blinked. "Did you find me?" {f.he} asked.

- {Hero} laughed. "You are the best hider in the world," {he} said.
- {Hero} giggled. "Your snoring found me," {he} said.

2- ~
- Then they shared {a_treats}, and the next time it was {Hero}'s turn to hide.
- And they walked home together in the evening sun.
- Since that day, {Friend} only plays hide and seek after a good nap.

= echo

> opening

- {Day}, {he} climbed up to the top of the hill. "Hello!" {he} called.
- {Day}, {he} stood between two high rocks. "Who is there?" {he} called.

- Somebody answered with the very same words.
- And from far away, a voice called back just the same.

¶
- "Do not copy me!" shouted {Hero}. "Do not copy me!" shouted the voice.
- "You are silly!" shouted {Hero}. "You are silly!" shouted the voice.
- "Go away!" shouted {Hero}. "Go away!" shouted the voice.

- {Hero} ran home with tears in {his} eyes. "Somebody was rude to me," {he} told {Elder}.
- {Hero} was very cross. "There is somebody who does not like me," {he} told {Elder}.

- {Elder} smiled. "Go back and say something kind," said {Elder}. "Then listen."
- {Elder} winked at {him}. "Try it once more," said {Elder}, "but with a friendly word."

¶
- So {Hero} went back and took a deep breath. "I like you!" {he} called. "I like you!" called the voice.
- So {he} climbed up again. "You are my friend!" {he} called. "You are my friend!" called the voice.

- {Hero} laughed, and the hills laughed with {him}.
- {Hero} waved with both {hands}. {He} was sure that somebody waved back.

- And {he} learned that the world often answers the way you call.
- "What you send out comes back to you," said {Elder} that evening.
- Since then, {Hero} goes there every day to say good morning.
"""

"""The first half of the storybook's plots: stories of friends. ``storybook.py`` explains the notation.

In short: ``= name`` begins a plot. A blank line parts its beats, of which one variant each is told. ``- `` begins a
variant (``3- `` is three times as likely, ``home- `` and ``woods- `` belong to one world), an indented line goes on
with it. ``~`` tells nothing. ``¶`` begins a paragraph, ``> name`` borrows a beat from the fragments, ``@`` begins a
table of which one row is drawn.
"""

FRAGMENTS = """
= opening

4- Once upon a time, there was {a_hero} named {Hero}. {He} lived in {home}.
3- Once upon a time, {a_hero} named {Hero} lived in {home}.
- Once upon a time, in {home}, there lived {a_hero} named {Hero}.
2- There once was {a_hero} named {Hero}. {He} lived in {home}.
2- {Hero} was {a_hero} who lived in {home}.
- In {home}, there lived {a_hero} named {Hero}.
2- Once there was {a_hero} whose name was {Hero}.

= friend comes

- Just then, {his} friend {Friend} came by. {Friend} was {a_friend}.
- {Friend}, {a_friend}, saw {him} and came closer.
- Then along came {Friend}, {a_friend}.
- {Friend}, {a_friend} who lived nearby, came to see {him}.
"""

FRIENDS = """
= lost

> opening

- {He} had {a_thing}, and {he} loved it more than anything else.
- {His} favorite thing in the whole world was {a_thing}.
- {Elder} had given {him} {a_thing}, and {he} took it everywhere.
- {He} had {a_thing}, and every night {he} put it beside {his} bed.

¶
- {Day}, the {thing} was gone. {Hero} looked {spot}. It was not there. {He} looked {spot2}. It was not there, either.
- {Day}, {Hero} could not find the {thing}. {He} searched {spot} and {spot2}, but the {thing} was nowhere to be seen.
home- {Day}, {Hero} wanted to play, but the {thing} was missing. {He} looked {spot} and found only an old sock.
  {He} looked {spot2} and found only dust.
woods- {Day}, {Hero} wanted to play, but the {thing} was missing. {He} looked {spot} and found only a sleepy beetle.
  {He} looked {spot2} and found only leaves.

4- ~
- A big tear rolled down {his} cheek.
- {Hero} sat down and began to cry.
- "Oh no!" {he} cried. "I will never find it."
- {Hero} felt very sad.

¶
> friend comes

- "Why are you so sad?" asked {Friend}. "I lost my {thing}," said {Hero}. "Then let us look for it together," said
  {Friend}.
- "Do not cry," said {Friend}. "I will help you find your {thing}. Four eyes see more than two."
- "My {thing} is gone," said {Hero}. "I am good at finding things," said {Friend}. "Come with me!"

- {Friend} thought hard. "Where did you play yesterday?" {f.he} asked. {Hero} closed {his} eyes.
  "I was playing {spot3}!" {he} said. They ran to look, and there it was, safe and sound.
- They looked in every corner. At last {Friend} stopped and pointed. There was the {thing}, {spot3}!
- Suddenly {Friend} had an idea. "Did you look {spot3}?" {f.he} asked. {Hero} shook {his} head. They went to see, and
  there was the {thing}.

¶
- ~
- {Hero} hugged the {thing}, and then {he} hugged {Friend}. "Thank you!" {he} said. "You are a true friend."
- {Hero} jumped for joy. "Thank you, {Friend}!" {he} said. They played together until the sun went down.
- "Hooray!" shouted {Hero}, and they both danced around the {thing}.

2- ~
- From that day on, {Hero} always put the {thing} in a safe place.
- That night, {Hero} fell asleep with a smile, and the {thing} lay right beside {him}.
- {Hero} learned that every trouble gets smaller when a friend helps you.
- And if the {thing} ever got lost again, {Hero} knew whom to ask.

= share

> opening

- {Day}, {Elder} gave {him} {a_treats}. They smelled so good!
- {Day}, {he} got {a_treats} from {Elder}. "All for me!" {he} said.
- {Day}, {Elder} gave {him} {a_treats}. "How lucky I am!" {he} said.

¶
- {Hero} sat down {at_place} to eat.
- {He} carried the {treats} to {place} and sat down in the sun.

> friend comes

- "May I have one?" asked {Friend}. "I have not eaten all day."
- "Those {treats} look lovely," said {Friend}. "May I try one?"
- "I am so hungry," said {Friend}. "Will you share with me?"

- {Hero} shook {his} head. "No," {he} said. "They are all mine." {Friend} looked at the ground and walked away.
- {Hero} held the {treats} close. "No, they are mine!" {he} said. {Friend} did not say a word and left.

¶
- {Hero} ate one, but it did not taste good. {He} could only think of {Friend}'s sad face.
- {Hero} was alone now. {He} looked at the {treats}, but {he} was not hungry anymore. {He} felt sorry.
- {Hero} took a bite. Then {he} stopped. "If I were hungry," {he} thought, "I would want a friend to share with me."

- So {he} ran after {Friend}. "I am sorry," {he} said. "Please come back. There is enough for two."
- {He} jumped up and ran as fast as {he} could. "Wait, {Friend}!" {he} called. "Half of them are for you!"
- {He} found {Friend} at the gate. "I was not nice," {he} said. "Please eat with me."

¶
- {Friend} smiled, and they sat down side by side. Now every bite tasted wonderful.
- They ate the {treats} together and laughed and talked until the last one was gone.
- "Thank you," said {Friend}. They ate and told each other jokes until the stars came out.

2- ~
- The next day, {Friend} came with a surprise. It was {a_thing}. "Now I share with you," said {f.he}.
- {Hero} learned that food tastes best when you share it.
- From then on, {Hero} always kept the biggest piece for {Friend}.
- "You know," said {Hero}, "it is much more fun with two." And they were friends from that day on.

= quarrel

@ toy | snap
kite | Rip! The kite tore in two.
paper crown | Rip! The paper crown tore in two.
picture book | Rip! The picture book was in two pieces.
puppet | Rip! The puppet lost an arm.
toy boat | Crack! The toy boat broke in two.
toy horse | Crack! The toy horse lost a leg.
drum | Crack! The drum had a big hole.
umbrella | Snap! The umbrella broke in two.
toy train | Snap! The toy train lost two wheels.
music box | Clink! The music box stopped playing.

> opening

- {His} best friend was {Friend}, {a_friend}. They did everything together.
- {He} often played with {Friend}, {a_friend}. They were the best of friends.

¶
- {Day}, they found {a_color}{toy} {spot}. "It is mine! I saw it first!" said {Hero}. "No, it is mine!" said {Friend}.
- {Day}, {Elder} gave them {a_color}{toy}. "I want to go first!" said {Hero}. "No, I want to go first!" said {Friend}.

- They both pulled as hard as they could. {snap}
- {Hero} pulled, and {Friend} pulled. {snap}

- "It is all your fault!" they shouted, and they both went home without saying goodbye.
- "I do not want to play with you anymore," said {Hero}. "Me neither," said {Friend}. And they both walked away.

¶
- The next morning, {Hero} sat alone {spot2}. It was so quiet. {He} missed {Friend} very much.
- All day, {Hero} played alone, but no game was any fun. {He} missed {Friend}'s laugh.

3- ~
- "Being right is no fun when you are alone," said {Elder}.
- "What would make it good again?" asked {Elder}. {Hero} thought about it.
- "A friend is worth more than any {toy}," said {Elder}.

- So {Hero} set off to say sorry. Halfway there, {he} met {Friend}, who was on {f.his} way to {him}.
- {Hero} opened the door to go and say sorry. There stood {Friend}, who was just about to knock.

¶
- "I am sorry!" they both said at the same time. Then they laughed and laughed.
- "I am sorry," said {Hero}. "I am sorry, too," said {Friend}. And they hugged each other tight.

- ~
- Together they mended the {toy}, and from then on they took turns.
- They fixed the {toy} with glue and a bit of string. It looked funny, but they loved it more than before.
- They mended the {toy} and put it on the shelf, so that they would never forget what friends are for.

= newcomer

> opening

- {He} had many toys, but nobody to play with.
- {He} often felt lonely and wished for a friend.
- {He} liked to play, but playing alone was not much fun.

¶
- {Day}, somebody new moved in next door. It was {Friend}, {a_friend}.
- {Day}, {Elder} said, "We have a new neighbor. {f.His} name is {Friend}." {Hero} looked outside and saw {a_friend}.

- {Hero} waved, but {Friend} hid behind a tree. {f.He} was very shy.
- "Hello!" called {Hero}. But {Friend} only looked at {f.his} feet and ran inside.
- {Friend} sat all alone in front of the house and did not say a word.

2- ~
- "Does {f.he} not like me?" {Hero} asked. "Give {f.him} time," said {Elder}. "Everything is new for {f.him}."
- "Maybe {f.he} is afraid," said {Elder}. "You could do something kind."

¶
- So {Hero} put {a_treats} in front of {Friend}'s door. The next day the {treats} were gone, and there was a note.
  It said: "Thank you."
- So the next day, {Hero} left {a_treats} in front of {Friend}'s door and hid. The door opened a little.
  A small {hand} took one, and there was a smile.
- So {Hero} took {a_thing} and sat down outside to play. After a while, {Friend} came a little closer.
  Then {f.he} came closer still.

- Then {Hero} asked, "Would you like to play with me?" {Friend} nodded. "I was only waiting for someone to ask,"
  {f.he}
  whispered.
- Then {Hero} said, "I am {Hero}. Do you want to play?" The answer was very soft. "I am {Friend}," said {Friend},
  "and yes, I do."
- After that, it was easy. "Shall we go to {place}?" asked {Hero}. {Friend} nodded, and {f.his} eyes began to shine.

¶
- That day they played hide and seek, and tag, and pirates. {Hero} had never laughed so much.
- They played until it was dark, and neither of them felt lonely anymore.
- They climbed and ran and sang together, and {Friend} was not shy at all anymore.

2- ~
- Now {Hero} had a friend, and so did {Friend}.
- One small kind thing can be the start of a big friendship.
- And if you go to {place} today, you may still see the two of them there.
- That night, two happy friends waved to each other from their windows.

= race

> opening

- {He} could run very fast, and {he} knew it. "Nobody is faster than me!" {he} liked to say.
- {He} loved to run. {He} wanted to win every race in the world.

¶
- {Day}, there was a big race to {place}. {Friend}, {a_friend}, wanted to run, too.
- {Day}, {Elder} held a race from the gate to {place}. {Friend}, {a_friend}, stood next to {Hero}.

- "You are much too slow," laughed {Hero}. {Friend} did not say anything.
- "I will win, of course," said {Hero}. "I will just do my best," said {Friend}.

- "Ready, set, go!" called {Elder}. {Hero} shot off like an arrow, and soon {he} was far ahead.
- "One, two, three, go!" shouted {Elder}. {Hero} ran like the wind, and everyone else was left behind.

¶
- Then {he} heard a cry. {Friend} had tripped over a stone and hurt {f.his} knee.
- Suddenly there was a thump. {Hero} looked back. {Friend} had fallen down and was holding {f.his} foot.

- {Hero} could already see the finish line. It was so close! But {he} stopped and turned around.
- "If I stop now, I will not win," thought {Hero}. But then {he} looked at {Friend}, and {he} ran back.

- "Lean on me," {he} said. Step by step, they walked on together.
- "Does it hurt?" {he} asked, and {he} helped {Friend} up. "We will go together," {he} said.

¶
- They were the very last to arrive, but everybody cheered for them louder than for anyone else.
- When they crossed the line side by side, everyone clapped and clapped.

3- ~
- {Elder} gave {Hero} {a_thing}. "This is for the kindest runner," said {Elder}.
- "You did not win the race," said {Elder}, "but you won a friend."
- "Thank you," said {Friend}. "You are the best." And that was nicer for {Hero} than any prize.

- After that day, {Hero} still ran fast, but {he} never laughed at anyone again.
- And the next time they raced, they held {hands} from the start.
- {Hero} was last, and {he} had never been so happy.

= teamwork

@ a_load | load | trouble
a huge pumpkin | pumpkin | It had rolled into the middle of the path.
a heavy log | log | It lay right across the path after the storm.
a wooden cart | cart | Its wheels were stuck deep in the mud.
a big stone | stone | It blocked the little stream, and the water could not flow.
a giant turnip | turnip | It sat so deep in the ground that only its leaves were showing.
an old rowing boat | boat | It lay on the shore, far away from the water.
a big round cheese | cheese | It had fallen from a wagon and blocked the gate.

> opening

- {Day}, {he} found {a_load}. {trouble}
- {Day}, {he} was out for a walk when {he} saw {a_load}. {trouble}
- {Day}, on the way to {place}, {he} came upon {a_load}. {trouble}

2- ~
- "I am strong," said {Hero}. "I can move the {load} all by myself."
- "I can do it alone," {he} said. "I do not need any help."

- ~
- {He} pushed and {he} pulled, but the {load} did not move at all.
- {He} pulled until {his} face turned red. The {load} did not move one bit.

¶
> friend comes

- "May I help?" asked {Friend}. {Hero} was proud, but {he} was tired. "All right," {he} said.
- "Two are stronger than one," said {Friend}. {Hero} thought about it. "Then please help me," {he} said.

- They pushed together. The {load} moved a little and stopped again. So they called {Elder}.
- "One, two, three!" they called and pulled. It was almost enough. So they asked {Elder} to help.

- {Elder} pulled {Friend}, {Friend} pulled {Hero}, and {Hero} pulled the {load}. Still it was stuck!
- All three pushed with all their might. Still it was not enough.

¶
- Then a tiny ladybug landed on the {load}. "I will help, too," it said.
- Then a little ant came by. "I am small," it said, "but I will do what I can."
- "May I help?" asked a very small snail. Nobody laughed. "Please do," said {Hero}.

- And all at once, the {load} began to move! "Hooray!" they all shouted.
- They tried once more, and pop! The {load} came free, and they all fell down and laughed.

2- ~
- "Alone I could not do it," said {Hero}, "but together we are strong."
- That evening they all had supper together, and the smallest got the biggest piece of cake.
- From that day on, {Hero} was never too proud to ask for help.
- "Who was the strongest?" asked {Friend}. "All of us," said {Hero}.

= rain

@ plan | game
have a picnic | They made little boats out of bark and let them sail in the puddles.
fly a kite | They jumped into every puddle, splish and splash, until they were wet from head to toe.
play ball outside | They built a tent out of blankets, and inside it they told each other stories.
pick flowers | They put out pots and pans, and the rain played a song on them, plink and plonk.
build a sandcastle | They dug a little river and built a bridge across it.
climb the big tree | They caught the drops with their tongues and tried to guess how they tasted.
hunt for treasure | They put on a play with puppets, and the rain on the roof clapped for them.

> opening

- {Day}, {he} wanted to {plan}. {He} had waited for it all week.
- For days {he} had been hoping to {plan}. And now the big day had come.

¶
- But as soon as {he} stepped outside, it began to rain. Drip, drop! Soon it was pouring.
- But then dark clouds came over the hill. First there was one drop, then two, and then it was pouring.

3- ~
- "This is the worst day ever," said {Hero}, and {he} pressed {his} nose against the window.
- {Hero} was so sad that {he} did not want to eat any of {his} {treats}.
- "Go away, rain!" shouted {Hero}, but the rain did not listen.

¶
- Then there was a knock at the door. It was {Friend}, {a_friend}, and {f.he} was laughing.
- Then {he} saw somebody dancing outside. It was {Friend}, {a_friend}.

- "Come out and play!" said {Friend}. "But it is raining!" said {Hero}. "That is the fun of it," said {Friend}.
- "Why are you not sad?" asked {Hero}. "We cannot {plan} now."
  {Friend} laughed. "Then we will do something better," {f.he} said.

- {game}

2- ~
- They did not even notice how the hours went by. "What shall we do next?" {Hero} kept asking.
- {Hero} laughed so much that {his} tummy hurt.

¶
- When the sun came back, there was a rainbow over {place}. "How beautiful!" they both said.
- In the evening, {Elder} gave them dry socks and {a_treats}.
- In the end the clouds drifted away, and the whole world smelled fresh and new.

2- ~
- "I hope it rains tomorrow, too," said {Hero}.
- Since that day, {Hero} smiles when {he} hears the rain.
- {Hero} learned that there are no bad days when you have a good friend.
- "We can {plan} another day," said {Hero}. "Today was perfect."

= moon

> opening

- {He} loved the moon. Every night {he} looked up at it and said good night.
- Every evening {he} sat outside and looked at the moon. It was so round and bright.

¶
- One night, {he} saw the moon in the water of a pond. "It fell down!" {he} cried. "I must save it!"
- One night, {he} saw the moon in a pond, right in the water. "Now I can take it home," {he} said.

- {He} took a bucket to fish it out. But the water shook, and the moon broke into a hundred pieces.
- {He} reached out to grab it. But when {he} touched the water, the moon wobbled and fell apart.

2- ~
- "Oh no, I broke the moon!" {he} cried.
- "I did not want to hurt it!" {he} said, and {his} eyes filled with tears.

¶
> friend comes

- "I broke the moon," sobbed {Hero}. {Friend} pointed up at the sky. "Look," {f.he} said.
- "Do not cry," said {Friend}. "Wait until the water is still. And now look up!"

- There was the moon, high above the trees, as round as ever. In the water there was only its picture.
- The moon was where it had always been, far up among the stars.

2- ~
- "I wanted it for myself," said {Hero}. "But it shines for everybody," said {Friend}.
- "You cannot take the moon home," said {Friend}, "but you can visit it every night."

¶
- They sat there for a long time and looked at the two moons, one above and one below.
- So they shared {a_treats} by the light of the moon, and nobody was sad anymore.
- Then they lay down in the grass and counted the stars until their eyes grew heavy.

- ~
- "Good night, moon," whispered {Hero}. And the moon shone all the way home with them.
- Since then, {Hero} says good night to both moons, the one above and the one below.
- Some things are most beautiful when they belong to everyone.
"""

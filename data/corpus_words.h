/* corpus_words.h - the words of the built-in corpus: names, the story grammar in English and in Chinese, the facts and
 * the problem templates. data/corpus.c turns them into documents; read its head first.
 *
 * The notation, in full:
 *     {a|b|c}     one of these, equally likely; nests          [a]      a or nothing, equally likely
 *     <hero>      a slot (fixed for one document) or a rule    <Hero>   the same with a capital
 *     <an trait>  with its article, a or an                    `        a double quote mark (saves a thousand \")
 *
 * Slots of a story: hero he him his child (boy, girl), pal phe phim phis pchild, elder ehe ehim ehis, they, kind
 * and pkind (species, where animals play), weather, part (of the day), and a..f, the fields of the plot's case.
 *
 * A *case* is what keeps a story sensible while everything else varies: one line of phrases that belong together (what
 * was lost, where it lay, why). A *beat* is one step of the plot; its wordings are drawn without looking at the other
 * beats, so whoever adds one must read it against all the others. Traps we fell into: two characters of one gender
 * make "he" unclear (use the name); a weather word in a beat contradicts the one in the opening; "looked behind the
 * sofa" fits a frame that "looked the cat has it" does not, so every field of a column has one grammatical shape.
 *
 * *Names.* That a name stays with its person must be learnt, and a small model finds it hard: guessing among all names
 * is a plateau which the first version of this text never left. What helps, measured: a story brings its name in at the
 * end of its first sentence and begins the second with it ("... named Tim. Tim ..."), so that looking one word back is
 * enough at first; it comes again soon, at growing distances; a name is one token everywhere, hence never at the start
 * of an English line and, in Chinese, of characters that no other word has; stories of one named person are more common
 * than of two, and the second one, once named, goes by a role ("her friend", "the fox"). Thirty names a language are
 * learnt sooner than a hundred and twenty.
 *
 * What this file refuses to do: name real people, give a role to one gender only, or frighten. */
#pragma once
#include "../dataset.h"

/* What tests look at, beside the text. A document claims one to CORPUS_KEYS combinations (see "the split" in corpus.c);
 * its skeleton, if asked for, is its text with names, nouns, numbers and words of lists printed as what they are:
 * <hero>, <a>. */
enum { CORPUS_KEYS = 10 };
int corpus_inspect(uint64_t seed, CorpusSplit split, CorpusKind kind, uint64_t i, Buf *skeleton, uint64_t *keys);
/* Problem i as a JSON line {"question", "answer", "program"}. */
void corpus_problem(uint64_t seed, CorpusSplit split, uint64_t i, Buf *json_line);

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* Even places are girls, odd places are boys: every role falls to both equally often. */
static const char *const names_en[] = {
    "Lily", "Tom", "Mia", "Ben", "Anna", "Max", "Zoe", "Sam", "Emma", "Leo", "Ruby", "Jack", "Nora", "Finn", "Ella",
    "Tim", "Lucy", "Omar", "Amy", "Noah", "Rosa", "Kai", "Maya", "Luca", "Sara", "Dan", "Nina", "Ravi", "Ivy",
    "Hugo"};
static const char *const names_zh[] = {
    "朵朵", "冬冬", "丽丽", "豆豆", "佳佳", "阿宝", "月月", "浩浩", "婷婷", "涛涛", "娜娜", "强强", "莉莉", "磊磊",
    "琳琳", "鹏鹏", "萌萌", "洋洋", "菲菲", "航航", "蕾蕾", "杰杰", "倩倩", "毛毛", "莎莎", "军军", "瑶瑶", "波波",
    "薇薇", "凯凯"};
static const char *const elders_en[] = {"mom",  "dad",   "grandma",    "grandpa",
                                        "aunt", "uncle", "big sister", "big brother"};
static const char *const elders_zh[] = {"妈妈", "爸爸", "奶奶", "爷爷", "姑姑", "叔叔", "姐姐", "哥哥"};
static const char *const kinds_en[] = {"rabbit", "bear", "squirrel", "fox", "mouse", "hedgehog", "duck", "beaver"};
static const char *const kinds_zh[] = {"小兔子", "小熊", "小松鼠", "小狐狸", "小老鼠", "小刺猬", "小鸭子", "小猴子"};
static const char *const weathers_en[] = {"sunny", "warm", "bright", "cool", "clear", "fresh", "quiet", "lovely"};
static const char *const weathers_zh[] = {"晴朗", "温暖", "明亮", "凉爽", "安静", "美好"};
static const char *const parts_en[] = {"morning", "afternoon"};
static const char *const parts_zh[] = {"早晨", "上午", "下午"};

/* A rule is a named piece of grammar. list: its alternatives are words of one category, not forms of a sentence. */
typedef struct { char name[8]; bool list; const char *text; } Rule;
#define N_FIELDS 6
typedef enum { PAL, ELDER } Second; /* who the other character is; always named in the text, part of the split key */
typedef struct {
    const char *name;
    Second second;
    bool animals; /* hero and pal are animals of the forest */
    const char *nouns; /* which fields are mere nouns or places; the others are clauses, forms of their own */
    const char *title;
    const char *const (*cases)[N_FIELDS];
    int n_cases;
    const char *beats[7];
} Plot;

/* ==== English stories ============================================================================================ */

static const Rule rules_en[] = {
    {"trait", true, "{kind|cheerful|curious|gentle|friendly|bright|happy|lively|little|thoughtful|young|sweet}"},
    {"home", true,
     "in a {small|little|cozy|yellow|white|red} {house|cottage} {by the river|near the woods|on a hill|"
     "at the edge of town|close to the sea|on a quiet street|next to a wide field|beside a big park}"},
    {"town", true, "{a small town|a quiet village|a town by the sea|a village near the hills|a green valley}"},
    {"hobby", true, "{sing|draw|read|run|climb trees|tell stories|dance|paint|look at the clouds|play outside}"},
    {"open", false,
     "{Once upon a time, there was <an trait> <child> {named|called} <hero>.|Once there was <an trait> <child> "
     "{named|called} <hero>.|Once upon a time, in <town>, there lived <an trait> <child> {named|called} <hero>.|In "
     "<town>, there lived <an trait> <child> {named|called} <hero>.|<Home> lived <an trait> <child> {named|called} "
     "<hero>.|Once upon a time, <home>, there lived <an trait> <child> {named|called} <hero>.}"},
    {"like", false, "<Hero> {liked|loved} to <hobby>[, and {everyone liked <hero>|<hero> smiled a lot|<he> had "
     "many ideas}]."},
    {"be", false, "<Hero> {was {kind|brave|cheerful|curious|clever|gentle}|had {brown|blue|green} eyes|{smiled|"
     "laughed} a lot}."},
    {"elike", false, "<Hero> {liked|loved} to <hobby> with <his> <elder>[, and {<his> <elder> liked it, too|<his> "
     "<elder> often laughed}]."},
    {"plike", false, "<Pal> {lived next door|lived in the same street|went to the same school|loved to <hobby>, too|"
     "was <an trait> <pchild>}."},
    {"aopen", false,
     "{Once upon a time, {in the forest|under an old oak tree|near a pond}, there lived <an trait> <kind> named "
     "<hero>.|Deep in the {green |quiet |old }forest lived <an trait> <kind> {named|called} <hero>.|Once there was "
     "<an trait> <kind> {named|called} <hero>.|{At the edge of the forest|In the green forest} lived <an trait> "
     "<kind> {named|called} <hero>.}"},
    {"day", false, "{One <weather> <part>,|One <part>,|One day,|On a <weather> <part>,|One morning after breakfast,|"
     "One afternoon after lunch,|It was a <weather> <part>, and}"},
    {"joy", true, "{very happy|so happy|full of joy|very glad|happy and proud}"},
    {"sad", true, "{sad|very sad|a little sad|upset}"},
    {"soft", true, "{softly|gently|kindly|with a smile|in a warm voice}"},
    {"night", false,
     "{That night|At bedtime|When the stars came out}, <hero> {{fell asleep|went to bed} "
     "{with a smile|feeling warm and happy}.|thought about {the day|it all} and smiled.|whispered, `{What a good day|"
     "Today "
     "was a good day|I am so lucky}.`}"},
    {"hug", false, "{gave <him> a {big|warm} hug|hugged <him>|put an arm around <him>|smiled at <him>}"},
    {"bye", false, "{When the sun went down|When it was time to go home|At the end of the day|In the evening}"},
};

static const char *const lost_en[][N_FIELDS] = {
    /* the thing, looked here, and here, was here, why, what hero does with it */
    {"toy car", "under the bed", "in the toy box", "behind the {big |old |}sofa",
     "It had rolled there {after lunch|the day before}", "drove it all around the room"},
    {"teddy bear", "in the closet", "on every chair", "under the {thick|warm} blanket",
     "It had slipped down while <hero> was sleeping", "held it tight"},
    {"red ball", "under the bench", "near the gate", "in the tall grass", "The wind had pushed it there",
     "bounced it high into the air"},
    {"blue hat", "on the shelf", "by the door", "on the head of the scarecrow",
     "<Hero> had put it there the day before", "pulled it down over both ears"},
    {"picture book", "on the shelf", "under the table", "in the kitchen, next to the flour",
     "<Hero> had read it there while the bread was in the oven", "read the best page out loud"},
    {"silver bell", "in every drawer", "behind the curtains", "in the dog's basket",
     "The dog had carried it there to play", "rang it three times"},
    {"green scarf", "behind the door", "under all the coats", "around the neck of the puppy",
     "The puppy had wanted to be warm, too", "laughed and wrapped it around them both"},
    {"wooden boat", "in the bathtub", "near the pond", "in the reeds by the water",
     "The waves had carried it away", "let it sail again, this time on a long string"},
};
static const char *const friend_en[][N_FIELDS] = {
    /* where, the new child, the question, what they did, they also, the plan */
    {"at the playground", "sitting alone on a swing", "Shall I push you", "took turns on the swing and went high",
     "laughed until their sides hurt", "race down the slide"},
    {"at the beach", "digging a hole all alone", "May I dig with you", "dug a deep hole and built a castle beside it",
     "put a white shell on the tallest tower", "build an even bigger castle"},
    {"in the park", "watching the ducks alone", "Do you want to feed the ducks with me",
     "threw oats to the ducks, a few at a time", "gave every duck a funny name", "look for frogs"},
    {"at school", "eating lunch alone", "Can I sit with you", "traded grapes for crackers and told jokes",
     "found out that they both loved trains", "draw a very long train"},
    {"in the library", "looking at a book about stars", "Can we read it together",
     "read the book from the first page to the last", "learned the names of all the planets",
     "read a book about whales"},
    {"in front of the house", "standing between big boxes", "Can I help you carry the boxes",
     "carried the boxes inside and made a fort with the empty ones", "used a blanket for the roof",
     "paint the fort"},
    {"in the garden next door", "looking under the leaves", "Are you looking for bugs, too",
     "turned over every leaf and every stone", "counted six ladybugs and one snail", "build a house for snails"},
    {"at the pond", "throwing small stones alone", "Can you show me how to make them jump",
     "looked for flat stones and made them jump over the water", "counted every jump out loud",
     "make a little boat"},
};
static const char *const learn_en[][N_FIELDS] = {
    /* the skill, how it failed, the advice, what got better, the success, the next wish */
    {"ride a bike", "the bike tipped over into the grass", "Look ahead, not at your feet", "went a little farther",
     "rode all the way to the big tree", "ride to the lake"},
    {"swim", "water got into <his> nose", "Kick with your legs and blow bubbles", "stayed up a little longer",
     "swam from one side of the pool to the other", "swim in the sea"},
    {"whistle", "only air came out", "Make your lips small and round", "made a slightly clearer sound",
     "whistled a whole song", "whistle with the birds"},
    {"tie <his> shoes", "the laces came apart at once", "First make two ears like a rabbit",
     "made the loops a little better", "tied a strong, neat bow", "tie a ribbon on a gift"},
    {"fly a kite", "the kite fell down on its nose", "Hold the string tight and run into the wind",
     "kept the kite up a little longer", "made the kite fly high above the houses", "build a kite"},
    {"roller-skate", "<his> feet rolled in two directions", "Bend your knees and take small steps",
     "fell down a little less", "skated in a big circle without falling", "skate backward"},
    {"play a song on the flute", "the flute only squeaked", "Blow softly, as if you blow on soup",
     "hit more of the right notes", "played the song from start to end", "play in the school band"},
    {"jump rope", "the rope caught <his> shoes", "Listen to the rope and jump when it taps the ground",
     "made one more jump", "jumped twenty times without a stop", "jump together with a friend"},
};
static const char *const share_en[][N_FIELDS] = {
    /* hero's thing, why pal has none, how it was shared, what they did, pal's thanks the next day, the thing's noun */
    {"a cheese sandwich", "had left <phis> lunch at home", "broke the sandwich in two and gave <his> friend the "
     "bigger half",
     "sat in the shade and ate together", "brought two plums and gave one to <hero>", "sandwich"},
    {"a box of crayons", "had only one short pencil", "put the box in the middle of the table",
     "drew a rainbow with every color in the box", "brought shiny stickers and shared them with <hero>", "crayons"},
    {"a bucket of clay", "had nothing to build with", "cut the clay in two equal parts",
     "made a whole zoo of little animals", "brought shiny buttons for the animals' eyes", "clay"},
    {"a bag of cherries", "had dropped <phis> ice cream", "counted them out, one for <his> friend and one for "
     "<himself>",
     "sat on the steps and ate until the bag was empty", "brought a basket of berries for <hero>", "cherries"},
    {"a new kite", "had never flown one", "put the string into <his> friend's hands",
     "watched the kite dance above the trees", "let <hero> ride <phis> scooter", "kite"},
    {"a jar of bubbles", "had nothing to play with", "gave <his> friend the first turn",
     "blew big bubbles and chased them across the grass", "taught <hero> a new clapping game", "bubbles"},
    {"a new puzzle", "had nobody to play with", "gave half of the pieces to <his> friend",
     "put the puzzle together, piece by piece", "brought an even bigger puzzle for both of them", "puzzle"},
    {"a chocolate cake", "had no birthday cake that year", "cut the cake in half and put a candle on <his> friend's "
     "piece",
     "sang a birthday song together", "made a paper crown for <hero>", "cake"},
};
static const char *const fear_en[][N_FIELDS] = {
    /* the fear, what happened (a sentence), what it really is, the advice, what hero did, what hero found */
    {"the dark", "One night, a tall black shape stood by the wall", "The dark hides nothing that the day does not have",
     "Let us turn on a lamp and look", "went up to the shape, one step at a time", "It was only a coat on a chair"},
    {"thunder", "One evening, the sky went boom", "Thunder is only the sound that lightning makes",
     "Let us count from the flash to the boom", "counted out loud after every flash",
     "Each time the number was bigger, so the storm was going away"},
    {"big dogs", "One day, a big brown dog came up to the gate", "This dog is old and gentle",
     "Let it smell your hand first", "held out a hand and stood very still",
     "The dog licked <his> fingers and wagged its tail"},
    {"deep water", "One summer day, everyone jumped into the lake", "The water can carry you if you let it",
     "Hold on to me and lie on your back", "held on with both hands and then let go with one",
     "The water carried <him> like a soft bed"},
    {"the high slide", "One day at the playground, everyone went down the high slide",
     "It looks higher from the top than it is", "Go slowly and look at me", "climbed up, step by step, and sat down",
     "The ride was fast and fun, and it was over too soon"},
    {"speaking in class", "One day, every child had to read a poem in class", "Most people feel that way",
     "Read it to your teddy bear first, then to me", "practiced until the poem felt like a song",
     "The whole class clapped when <hero> was done"},
    {"the doctor", "One day, <hero> had a sore ear and had to see the doctor", "The doctor wants to make you feel "
     "better",
     "Squeeze my hand as hard as you like", "sat up straight and squeezed hard",
     "It was over before <he> could count to five"},
    {"the old cellar", "One day, strange sounds came from the old cellar", "Old houses make many sounds",
     "Let us take a light and go down together", "went down the stairs, one by one",
     "A small gray kitten was playing with an empty can"},
};
static const char *const help_en[][N_FIELDS] = {
    /* elder's work, hero's part, the trouble, the way out, the result, its noun */
    {"had a basket full of wet clothes", "hang the clothes on the line", "the line was too high for <him>",
     "stood on a wooden box", "the white sheets danced in the wind like sails", "clothes"},
    {"was raking the leaves in the yard", "rake the leaves", "the wind blew them all around again",
     "put the leaves into bags right away", "the yard was clean and the bags were full", "leaves"},
    {"was painting the old fence", "paint the low boards", "paint dripped on <his> shoes",
     "wiped the shoes and used a little less paint", "the fence shone white in the sun", "fence"},
    {"was washing the muddy car", "wash the wheels", "the hose slipped and sprayed them both",
     "held the hose with both hands", "the car shone like new", "car"},
    {"was pulling weeds in the garden", "pull the weeds", "one weed would not come out",
     "dug around it with a small spoon", "the carrots had room to grow", "weeds"},
    {"was carrying wood into the shed", "carry the small pieces", "the pile fell over with a crash",
     "built it again with the big pieces at the bottom", "the wood stood in a neat wall", "wood"},
    {"was looking for eggs in the hen house", "look for eggs", "one hen did not want to get up",
     "gave the hen some corn and waited", "the basket held nine brown eggs", "eggs"},
    {"was baking bread for the whole street", "roll the dough", "the dough stuck to <his> fingers",
     "put a little flour on both hands", "the whole house smelled of warm bread", "bread"},
};
static const char *const sorry_en[][N_FIELDS] = {
    /* what hero did, while, the temptation, how it was put right, what hero does from then on, the thing */
    {"broke the blue vase", "running through the house", "hide the pieces under the rug",
     "glued the pieces together", "walked slowly in the house", "vase"},
    {"spilled juice on the white rug", "dancing with a full cup", "pull the table over the spot",
     "scrubbed the rug with soap and water", "sat down to drink", "rug"},
    {"let the rabbit out of its cage", "playing with the little door", "say that the wind had opened it",
     "found the rabbit in the garden and carried it back", "closed the little door with care", "rabbit"},
    {"ate the cake for the guests", "waiting in the kitchen", "blame the cat",
     "mixed and baked a new cake", "asked before eating anything", "cake"},
    {"tore a page of the old book", "turning the pages too fast", "push the book behind the shelf",
     "mended the page with clear tape", "turned every page slowly", "book"},
    {"stepped on the young plants", "chasing a ball in the garden", "say that the dog had done it",
     "tied the bent plants to small sticks", "played ball on the grass only", "plants"},
    {"drew on the clean wall", "trying out the new crayons", "hang a picture over it",
     "washed the wall until it was clean", "drew on paper only", "wall"},
    {"lost the garden key", "playing pirates with it", "say nothing at all",
     "looked through the sand until the key turned up", "hung the key on its hook", "key"},
};
static const char *const weather_en[][N_FIELDS] = {
    /* the plan, the weather, the new idea, how it went, the picture at the end, the plan's noun */
    {"have a picnic in the park", "dark clouds came and it began to rain", "have the picnic on the floor at home",
     "spread a blanket on the rug and ate sandwiches under the table", "a rainbow stood over the town", "picnic"},
    {"fly the new kite", "the wind stopped and not a leaf moved", "paint big eyes and a long tail on the kite",
     "made it the finest kite on the street", "a light wind came up in the evening", "kite"},
    {"go swimming in the lake", "a storm came up and the waves grew tall", "make a sea in the bathtub",
     "let ten paper boats sail across it", "the storm was over and the lake lay still", "swim"},
    {"build a snowman", "the sun came out and the snow melted", "build one of mud and leaves instead",
     "gave it a round belly and a hat of grass", "the mud man looked so funny that people stopped to laugh", "snowman"},
    {"ride their bikes to the farm", "fog came and hid the road", "play farm in the living room",
     "turned chairs into cows and pillows into sheep", "the fog lifted and the sun came out", "ride"},
    {"play ball in the yard", "hail began to fall like little white stones", "play with rolled socks in the hall",
     "threw the socks into a basket and counted the points", "the yard was white and sparkled in the sun", "game"},
    {"look at the stars from the hill", "thick clouds covered the sky", "make stars at home",
     "cut stars out of yellow paper and hung them over the bed", "the clouds opened and one real star looked in",
     "stars"},
    {"pick apples in the garden", "the snow came early and covered everything", "bake the apples from the cellar",
     "filled them with nuts and honey", "the whole house smelled sweet", "apples"},
};
static const char *const gift_en[][N_FIELDS] = {
    /* the gift, how it was made, the trouble, the way out, what elder did with it, its short name */
    {"a card with real flowers", "picked small flowers and pressed them in a heavy book", "one flower tore",
     "turned the torn petals into a butterfly", "put it next to the bed", "card"},
    {"a string of beads", "put red and blue beads on a long thread", "the beads rolled all over the floor",
     "picked them up one by one and made a strong knot", "wore it all day long", "string of beads"},
    {"a picture of the family", "drew everyone with a big smile", "a drop of water fell on the sky",
     "made the wet spot into a white cloud", "hung it on the kitchen wall", "picture"},
    {"a clay bowl", "rolled the clay and made it round and smooth", "a crack ran down the side",
     "pressed a clay leaf over the crack", "filled it with nuts", "bowl"},
    {"a crown of paper", "cut stars out of golden paper", "the ring turned out too small",
     "added a strip of red cloth", "put it on at once", "crown"},
    {"a little wooden bench", "cut and hammered all week with a neighbor", "one leg was too short",
     "put a flat piece of cork under it", "sat on it every evening", "bench"},
    {"a warm pair of socks", "learned to knit with green wool", "one sock was longer than the other",
     "added a red stripe to the short one", "wore them right away", "pair of socks"},
    {"a garden in a box", "put moss, stones and tiny plants in a box", "the box began to leak",
     "set a plate under it", "gave it a place at the window", "garden"},
};
static const char *const grow_en[][N_FIELDS] = {
    /* the seed, the trouble, the way out, what grew, what it was good for, the plant */
    {"sunflower seed", "a snail came to eat the leaves", "carried the snail to the far end of the garden",
     "a tall sunflower with a face like the sun", "saved its seeds for the birds", "sunflower"},
    {"bean", "the stem had nothing to hold on to", "gave it a long stick to climb",
     "a green vine full of beans", "cooked a pot of beans for the family", "bean plant"},
    {"pumpkin seed", "the leaves hung down in the heat", "watered it early every morning",
     "an orange pumpkin as big as a chair", "made soup and kept the seeds", "pumpkin"},
    {"tomato seed", "a cold night was coming", "covered it with an old pot", "a bush with ten red tomatoes",
     "took the first one to the neighbors", "tomato plant"},
    {"apple seed", "a goat tried to nibble at it", "built a little fence around it",
     "a thin young tree with seven leaves", "measured it every spring", "apple tree"},
    {"strawberry plant", "birds wanted the berries", "hung a shiny spoon on a string above it",
     "a plant full of sweet red berries", "ate them with cream", "strawberry plant"},
    {"carrot seed", "weeds grew faster than the carrot", "pulled out the weeds one by one",
     "a long orange carrot", "gave the green top to the rabbit", "carrot"},
    {"tulip bulb", "a late snow fell on it", "brushed off the snow with one finger",
     "a red tulip with a yellow heart", "drew a picture of it", "tulip"},
};
static const char *const rescue_en[][N_FIELDS] = {
    /* the animal, the trouble, first help, food, the day it was well, where it went */
    {"bird", "had a hurt wing", "put it in a box with soft cloth", "seeds and water", "it spread both wings",
     "flew up to the highest branch"},
    {"kitten", "was stuck high up in a tree", "put a long board against the branch", "warm milk",
     "it came down step by step", "curled up in <his> friend's arms"},
    {"turtle", "was lying on its back in the road", "turned it over and carried it to the grass", "fresh leaves",
     "it put out its head", "walked slowly to the pond"},
    {"hedgehog", "had fallen into a deep hole", "let a board down into the hole", "apple slices and water",
     "it climbed up the board", "ran into the bushes"},
    {"puppy", "was wet, cold and lost", "dried it with a big towel", "bread and warm broth",
     "it heard a boy calling its name", "jumped into the boy's arms"},
    {"duckling", "could not find its mother", "carried it in a hat to the river", "bits of lettuce",
     "a duck called from the reeds", "swam to its mother as fast as it could"},
    {"squirrel", "was caught in an old net", "cut the net with great care", "nuts and berries",
     "its leg was strong again", "jumped from tree to tree"},
    {"bee", "was too tired to fly", "set it on a yellow flower", "a drop of sugar water", "it cleaned its wings",
     "buzzed off to its hive"},
};
static const char *const build_en[][N_FIELDS] = {
    /* the work, what for, the trouble, the idea, how it was in the end, they */
    {"a tree house", "some boards and a rope", "the boards were too heavy to lift", "pull them up with the rope",
     "It had a window and a flag", "ate their lunch high above the garden"},
    {"a raft", "some logs and string", "the logs kept rolling apart", "tie a flat board across them",
     "It floated without a wobble", "sailed to the other side of the pond"},
    {"a hut of branches", "branches and a ball of string", "the walls kept falling down",
     "tie the branches together at the top", "It stood as firm as a rock", "sat inside and told stories"},
    {"a bird house", "a box and a hammer", "the roof let in the rain", "cover the roof with bark",
     "It was dry and snug inside", "watched two birds move in"},
    {"a soapbox car", "a crate and four wheels", "one wheel came off", "use a bigger nail",
     "It rolled fast and straight", "took turns and raced down the hill"},
    {"a bridge over the stream", "stones and a long plank", "the plank sank in the mud", "put flat stones under both "
     "ends",
     "It did not move at all", "walked across with dry feet"},
    {"a puppet theater", "a box and old socks", "the curtain would not open", "hang it on a smooth string",
     "It opened like a real one", "played a funny show for the whole street"},
    {"a scarecrow", "straw and an old shirt", "it fell on its face", "tie it to a strong pole",
     "It stood tall in the field", "gave it a hat and a big smile"},
};
static const char *const forest_en[][N_FIELDS] = {
    /* pal's trouble, hero's first thought, what hero did, how it turned out, the thanks later, the lesson */
    {"had no food for the winter", "I worked hard for my nuts", "carried half of the nuts to the <pkind>'s home",
     "they both had enough until spring", "showed <hero> where the sweetest berries grow", "what we give comes back "
     "to us"},
    {"could not cross the river", "The river is not my problem", "pushed a long log across the water",
     "the <pkind> walked over it with dry feet", "used the log to bring <hero> fresh apples", "a good deed is a "
     "bridge"},
    {"had lost the way home", "It is late and I am tired", "took a lantern and walked along to show the way",
     "they saw the light in the <pkind>'s window", "hung up a lamp so that <hero> could always find it",
     "no road is long with a friend"},
    {"had a thorn in the foot", "Maybe somebody else will help", "pulled the thorn out, very slowly",
     "the <pkind> could run and jump again", "warned <hero> when a storm was coming", "even small paws can do great "
     "things"},
    {"had lost the roof of <phis> house in a storm", "My own house is still fine", "brought branches and moss for a "
     "new roof",
     "the new house was stronger than the old one", "invited <hero> to the first warm supper there",
     "work is lighter with two"},
    {"was not invited to the big feast", "I could just go alone", "asked everyone to make room for one more",
     "there was a chair and a plate for the <pkind>", "sang the most beautiful song of the evening for <hero>",
     "there is always room for one more"},
    {"could not sleep because of the owl", "I sleep very well myself", "asked the owl to sing a softer song",
     "the whole forest slept well", "made <hero> a pillow of soft feathers", "a kind word opens many doors"},
    {"had torn the only kite in the forest", "It was not me who tore it", "mended the kite with a big green leaf",
     "it flew even higher than before", "gave <hero> the first turn", "broken things can become better things"},
};
static const char *const race_en[][N_FIELDS] = {
    /* the contest, pal's accident, what hero did, how they finished, the prize, the judge's words */
    {"a race to the old oak tree", "tripped over a root", "ran back and helped <his> friend up",
     "crossed the line hand in hand", "one red ribbon, cut in two", "A friend is worth more than a ribbon"},
    {"a boat race on the pond", "saw <phis> paper boat tip over", "gave <his> friend a spare sheet of paper",
     "let their two boats sail side by side", "a small blue flag for each", "Fair play is the best wind"},
    {"a sack race at the fair", "fell down with a bump", "stopped and held out a hand",
     "hopped to the end side by side", "two big apples", "You came last, and you won our hearts"},
    {"a sandcastle contest", "lost <phis> tower to a wave", "carried over wet sand and a shovel",
     "joined the two castles with a bridge", "a golden paper crown", "Together you made the best one of all"},
    {"a bike race around the lake", "had a flat tire", "got off and fixed it with a patch",
     "rolled in last, singing", "two shiny bells", "That was the kindest race I ever saw"},
    {"a spelling contest", "forgot a word and turned red", "whispered to <his> friend to take a deep breath",
     "reached the last round together", "a book for each of them", "Good friends make good spellers"},
};
static const char *const trip_en[][N_FIELDS] = {
    /* where to, what they saw, what they did, the surprise (a sentence), what hero took home, how they got there */
    {"the beach", "white birds and long green waves", "looked for shells in the wet sand",
     "A little crab walked right over <hero>'s foot", "a pink shell", "by train"},
    {"the farm", "cows, sheep and a fat pink pig", "fed the goats with hay", "A lamb followed <hero> like a puppy",
     "a bag of fresh plums", "by bus"},
    {"the zoo", "tall giraffes and sleepy lions", "watched the monkeys play", "An elephant waved its trunk at <hero>",
     "a picture of the elephant", "by bus"},
    {"the market", "red peppers, yellow lemons and shiny fish", "tasted cheese, honey and olives",
     "A baker gave <hero> a warm pretzel for free", "a small pot of honey", "on foot"},
    {"the mountains", "dark trees and a blue lake far below", "climbed up a path of stones",
     "At the top, a cloud came down and hid their feet", "a smooth gray stone", "by train"},
    {"the city", "tall houses and a bridge with a hundred lamps", "rode to the top of a tower",
     "A white pigeon sat down on <hero>'s arm", "a little bell", "by train"},
    {"the forest", "tall pines and mushrooms with red caps", "listened to the birds and the wind",
     "A deer stepped out and looked at <hero> for a long time", "a pine cone", "on foot"},
    {"the museum", "old ships and bones of a dinosaur", "put together a puzzle of the dinosaur",
     "A big model of a dinosaur turned its head", "a tiny toy dinosaur", "by bus"},
};
static const char *const pet_en[][N_FIELDS] = {
    /* the pet, how shy it was, what hero did, the first trust, the mischief, its name */
    {"kitten", "hid under the sofa", "sat on the floor and rolled a ball of wool",
     "came out and touched the wool with one paw", "fell asleep inside a shoe", "Button"},
    {"puppy", "cried at the door", "lay down beside its basket and hummed a song", "put its head on <hero>'s arm",
     "carried one sock into the garden", "Biscuit"},
    {"rabbit", "sat in a corner and did not move", "held out a piece of carrot and waited",
     "took a tiny bite", "ate the corner of a picture book", "Clover"},
    {"parrot", "turned its back on everyone", "read a story out loud next to the cage", "turned around to listen",
     "said `Good night!` at breakfast", "Coco"},
    {"goldfish", "stayed behind the green plant", "came every day at the same time with a little food",
     "swam up to the glass", "splashed water on the window", "Sunny"},
    {"turtle", "pulled its head into its shell", "put down a leaf and kept very still", "put out its nose to smell "
     "the leaf",
     "went for a walk under the cupboard", "Pebble"},
    {"hamster", "dug itself deep into the straw", "laid a path of seeds across the straw", "ate all the seeds, one by "
     "one",
     "stuffed both cheeks with oats", "Peanut"},
    {"pony", "would not leave its stall", "brushed its neck and talked to it", "rested its warm nose on <hero>'s "
     "shoulder",
     "ate the apple out of a coat pocket", "Star"},
};
static const char *const cook_en[][N_FIELDS] = {
    /* the dish, what goes in, the mishap, the way out, how it tasted, for whom */
    {"pancakes", "flour, milk and three eggs", "the first pancake stuck to the pan", "put in a little more butter",
     "soft and golden", "for everyone"},
    {"vegetable soup", "carrots, potatoes and an onion", "the onion made them both cry",
     "opened the window and laughed", "warm and good", "for a sick neighbor"},
    {"an apple pie", "apples, sugar and cinnamon", "the pie came out a bit dark on one side",
     "turned it around and covered it", "sweet and spicy", "for the whole family"},
    {"cookies", "butter, oats and raisins", "two cookies ran together into one", "called it the twin cookie",
     "crisp and sweet", "for the class"},
    {"a pizza", "dough, tomatoes and cheese", "the dough was not round at all", "made it into the shape of a star",
     "hot and crisp", "for supper"},
    {"fruit salad", "bananas, grapes and an orange", "the bananas turned brown", "squeezed some lemon over them",
     "fresh and sweet", "for a picnic"},
    {"dumplings", "flour, cabbage and mushrooms", "some dumplings opened in the pot",
     "pressed the edges of the others together with a fork", "juicy and warm", "for the holiday"},
    {"bread", "flour, water and a pinch of salt", "the dough did not rise", "set it near the warm stove and waited",
     "warm and crusty", "for supper"},
};
static const char *const save_en[][N_FIELDS] = {
    /* the wish, how hero earned coins, the temptation, what hero thought, the day it was bought, its noun */
    {"a red kite", "watering the neighbors' flowers", "a bag of candy", "Candy is gone in a minute",
     "flew it over the field until the evening", "kite"},
    {"a book about the sea", "picking up apples", "a plastic sword", "A sword breaks, but a book stays",
     "read it under a tree, page by page", "book"},
    {"a drum", "walking an old dog", "a box of stickers", "Stickers make no music",
     "played it softly, so that nobody had to cover their ears", "drum"},
    {"a pair of skates", "sweeping the yard", "a pink balloon", "A balloon flies away",
     "went to the frozen pond at once", "skates"},
    {"a paint box", "washing windows", "a big ice cream", "Ice cream melts, but colors do not",
     "painted the house, the street and the sky", "paint box"},
    {"a blue scooter", "carrying newspapers", "a silly mask", "A mask is funny for only one day",
     "rode it up and down the street", "scooter"},
    {"a little telescope", "feeding the cats next door", "a bag of marbles", "I can look at the moon for years",
     "found the moon and its gray mountains", "telescope"},
    {"a basketball", "raking leaves", "a shiny whistle", "With a ball I can play with everyone",
     "played with all the children of the street", "basketball"},
};

static const Plot plots_en[] = {
    {"lost", ELDER, false, "abcd", "{The lost <a>|The day <hero> lost the <a>|Where is the <a>?}",
     lost_en, COUNT(lost_en), {
     "<open> [<be> ]{<Hero> had <an a>, and {it was <his> favorite thing|<he> took it everywhere|<he> loved it very "
     "much}.|<Hero> loved one thing most of all: {a gift from <his> <elder>, <an a>|<an a>}.|<Hero>'s favorite thing "
     "was {a gift from <his> <elder>: <an a>|<an a>}.}",
     "<day> {the <a> was gone|<hero> could not find the <a>|<hero> looked for the <a>, but it was not there}. {<Hero> "
     "looked <b>. <Hero> looked <c>. {It was not there.|No <a>!|Nothing!}|<Hero> looked <b> and <c>, but {there was "
     "no <a>|<he> did not see it|it was not there}.|First <he> looked <b>. Then <he> looked <c>. {Nothing!|Still "
     "nothing.|But the <a> was not there.}}[ <Hero> {felt|was} <sad>.]",
     "<His> <elder> {saw <his> sad face|came into the room|heard <him> sigh|came to help}. `{What is wrong|What are "
     "you looking for|Why do you look so sad}?` <ehe> asked. `{I lost|I can't find} my <a>,` {said|answered} <hero>.",
     "`{Do not worry|Don't be sad|We will find it}. {Let us look together,|Let us think. Where did you have it last?|"
     "When did you see it last?}` said <his> <elder>.",
     "{They looked {high and low|everywhere|in every corner}.|<Hero> closed <his> eyes and thought hard.|They took a "
     "light and looked once more.} {Soon|At last|Then|After a while} <he> {saw|found|spotted} it: the <a> was <d>! "
     "<E>.",
     "<Hero> <f>. {`Thank you for helping me,` <hero> said[ and hugged <his> <elder>].|`Four eyes see more than two,` "
     "said <his> <elder>.|From then on, <he> {always put it back in its place|knew where to look first}.|<Hero> was "
     "<joy>[, and <his> <elder> was glad, too].}[ <night>]"}},
    {"friend", PAL, false, "a", "{A new friend|How <hero> made a friend|How <hero> said hello|One small hello}",
     friend_en, COUNT(friend_en), {
     "<open> [<be> ]<like>",
     "<day> <hero> was <a>. {There <he> saw|<Hero> saw|Not far away was} a {new |shy |}<pchild> <b>. {The <pchild> "
     "looked {a bit lonely|shy|a little sad}.|<Hero> had never seen that <pchild> before.|Nobody was talking to the "
     "<pchild>.}",
     "{<Hero> felt a little shy, but <he> {walked over|was brave}.|<Hero> remembered how it feels to be alone.|`I "
     "will say hello,` thought <hero>.} `{Hi|Hello}! {I am|My name is} <hero>,` <hero> said <soft>. `<c>?`",
     "{The <pchild> {smiled|looked up and smiled|nodded}. `{Yes, please|I would like that|Oh yes}! {I am|My name is} "
     "<pal>.`|`{Yes, please|I would like that|Oh yes}!` said the <pchild>. `{I am|My name is} <pal>.`}",
     "{Soon|So|In no time,} <hero> and <his> friend <d>. {They also|Then they|After that, they} <e>.",
     "<bye>, {<his> friend asked, `{Will you come back tomorrow|Will I see you again}?` `{Of course|Yes|Sure}!` said "
     "<hero>. `{Tomorrow|Next time} we {can|will} <f>!`|{they|the two of them} {promised|planned} to <f> {the next "
     "day|next time}.} {From that day on, {they|<hero> and <his> friend} were {good|best} friends.|<Hero> went home "
     "<joy>.|One small hello had made a {big|new} friend.|<His> friend was not alone any more.}"}},
    {"learn", ELDER, false, "", "{How <hero> learned to <a>|Try again, <hero>!|A lesson for <hero>}",
     learn_en, COUNT(learn_en), {
     "<open> [<be> ]<elike> <Hero> wanted to {learn to <a>|<a>}[ more than anything][, {just like <his> <elder>|but "
     "it looked so hard}].",
     "<day> <his> <elder> said, `{Shall we try it together?|Today is a good day to learn it.|Come, I will show you "
     "how.}` {<Hero> tried, but <b>.|The first try did not go well: <b>.|It was harder than it looked: <b>.}",
     "`{I can't do it|This is too hard|I will never learn it},` {<hero> said|said <hero>}[ and {looked at the ground|"
     "wiped away a tear}]. `{Nobody can do it the first time|Everyone starts like that|I failed many times, too|You "
     "just need some time},` {said|answered} <his> <elder> <soft>. `<C>.`",
     "So <hero> tried {again and again|once more, and then once more|again the next day, and the day after}. {Each "
     "time|Every time|Little by little}, <he> <d>.",
     "{At last|One day|After a week|Then, all at once}, <he> <e>! `{You did it|I knew you could do it|Look at you|"
     "Well done}!` {called|cried|cheered} <his> <elder>.",
     "{<Hero> was <joy>.|<Hero> laughed out loud.|<Hero> could hardly believe it.} {`{Next|Now}, I want to <f>,` "
     "<hero> said.|<Hero> had learned that {practice makes hard things easy|it pays to try again|big steps begin "
     "small}.|`It was not magic,` said <his> <elder>. `It was practice.`}[ <night>]"}},
    {"share", PAL, false, "af", "{How <hero> shared|Better together|What <hero> gave away}",
     share_en, COUNT(share_en), {
     "<open> [<be> ]<Hero> had {a good friend|a friend|a best friend} {named|called} <pal>. <plike>",
     "<day> <hero> had <a>. {<Hero> had waited for it all week.|<Hero> was very happy about it.|It was just what <he> "
     "wanted.} {But then <hero>|Then <he>} {saw|met} <his> friend, who <b>. {<His> friend looked {<sad>|down at the "
     "ground}.|<His> friend tried to smile, but could not.|`Never mind,` said <his> friend{ quietly|}.}",
     "{`If I share, I will have less,` thought <hero>. But {then <he> looked at <his> friend again|a friend is worth "
     "more than that}.|<Hero> did not have to think for long.|<Hero> thought, `{What would I wish for|How would I "
     "feel} in <phis> place?`|At first, <hero> wanted to keep everything. Then <he> changed <his> mind.}",
     "{`Come here,` said <hero>.|`{There is|We have} enough for two,` said <hero>.|`Let us share,` said <hero>.} "
     "<Hero> <c>. {<His> friend's face lit up.|<His> friend smiled from ear to ear.|`{Really|For me}? Thank you!` "
     "said <his> friend.}",
     "{The two friends|Then they|<Hero> and <his> friend} <d>. {It was much more fun {than being alone|with two}.|"
     "They laughed {and talked|a lot|together}.|It had never been so nice.}",
     "{The next day|A few days later|The next morning}, <his> friend <e>. {`Sharing is {fun|easy},` said <hero>.|And "
     "so both of them were <joy>.|`That is what friends do,` said <his> friend.|<Hero> learned that {joy grows when "
     "you share it|a kind heart is never poor}.}[ <night>]"}},
    {"fear", ELDER, false, "a", "{How brave <hero> is|The big fear|A brave <child>}",
     fear_en, COUNT(fear_en), {
     "<open> [<be> ]<elike> {There was only one thing that <hero> did not like: <a>.|But <hero> was afraid of <a>.|"
     "<Hero> was not afraid of {mice|spiders|the rain}, but <he> was afraid of <a>.}",
     "<b>. {<Hero>'s heart beat fast.|<Hero> felt cold and small.|<Hero>'s knees shook.|<Hero> wanted to {hide|run "
     "away}.} `{I am scared|I am afraid|I can't do this},` <hero> {whispered|said}.",
     "<His> <elder> {took <his> hand|sat down next to <him>|did not laugh}. `{That is all right|I know that feeling|"
     "When I was small, I was afraid, too},` <ehe> said <soft>. `<C>. <D>.`",
     "{<Hero> took a deep breath.|<Hero> swallowed hard.|<Hero> nodded slowly.} {<He>|Then <he>|With <his> <elder> "
     "close by, <he>} <e>.",
     "{And what happened|And then}? <f>! {<Hero> began to laugh.|<Hero> had to smile.|`Oh!` said <hero>. `{Is that "
     "all|That was not so bad}?`}",
     "{`{You were very brave|That was brave},` said <his> <elder>. `Being brave means {being afraid and trying anyway|"
     "going on when your knees shake}.`|From that day on, <he> was {not afraid of <a> any more|less afraid of <a>}.|"
     "<Hero> {stood up tall|felt a little taller}. The fear had become {small|as small as a mouse}.}[ <night>]"}},
    {"help", ELDER, false, "f", "{A good helper|How <hero> helped|Four hands|The <f>}",
     help_en, COUNT(help_en), {
     "<open> [<be> ]<elike>",
     "<day> <hero> {was looking for something to do|was playing alone|looked out of the window} and {saw|noticed} "
     "that <his> <elder> <a>. {It was a lot of work.|<His> <elder> looked tired.|There was so much to do!}",
     "`{May I help you|Can I help|Do you need a hand}?` {asked <hero>|<he> asked}. `{That would be nice|Yes, please|"
     "With two it goes faster},` {said|answered} <his> <elder>. `{You can <b>.|Could you <b>?}`",
     "<Hero> {started at once|rolled up <his> sleeves|set to work}. {But|Everything went well until} <c>. {`Oh dear!` "
     "said <hero>.|`Hm,` said <hero>.|<Hero> did not give up.|<Hero> stopped and thought.} {Then|So} <he> <d>[, and {"
     "it worked|that was much better}].",
     "{When they were done|After an hour|At last|In the end}, <e>. `{I could not have done it without you|What a good "
     "helper you are|You did a great job},` said <his> <elder>.",
     "{They sat down and {drank cold lemonade|shared a sweet orange|ate bread and jam}.|<Hero>'s arms were tired, but "
     "<he> was <joy>.|<Hero> learned that {work is fun with two|helping feels good}.|<His> <elder> <hug>.}[ <night>]"}},
    {"sorry", ELDER, false, "f", "{How <hero> said sorry|The truth|The <f>}",
     sorry_en, COUNT(sorry_en), {
     "<open> [<be> ]<elike>",
     "<day> <hero> <a> while <he> was <b>. {`Oh no!` {cried|whispered} <hero>.|<Hero> stood very still.|<His> cheeks "
     "turned red.} {Nobody had seen it.|The house was quiet.|What now?}",
     "{First, <he> wanted to <c>.|`I could <c>,` <hero> thought.|For a moment, <hero> thought <he> should <c>.} But {"
     "<his> tummy felt heavy|that did not feel right|a lie would only make it worse|<he> knew that it was wrong}.",
     "{So|In the end,} <hero> {went to|looked for} <his> <elder>{ and told the truth|}. `{I did something wrong|I "
     "have to tell you something|It was my fault},` <hero> said. `I <a>. I am {so |very |}sorry.`",
     "<His> <elder> {looked at <him> for a moment|was quiet for a moment|listened to every word}. `{I am not glad "
     "about it|It is a pity}, but {I am glad that you told me|I am proud that you told the truth|it was brave to tell "
     "me},` <ehe> said. `{Let us|Come, we will} make it right.` {Together they|So the two of them} <d>.",
     "{From then on|After that|Ever since}, <hero> <e>. {And <his> heart was light again.|<Hero> learned that {the "
     "truth makes the heart light|saying sorry is the first step}.|<His> <elder> <hug>, and all was well.}[ <night>]"}},
    {"weather", PAL, false, "f", "{A change of plan|The idea of two friends|The weather had other plans}",
     weather_en, COUNT(weather_en), {
     "<open> [<be> ]<Hero> had a {best|good} friend {named|called} <pal>. <plike>",
     "{One day|One <part>}, {<hero> and <his> friend|the two friends} wanted to <a>. {They had talked about it all "
     "week.|Everything was ready.|They could hardly wait.} But {just then|when they opened the door|all at once}, <b>.",
     "`{Oh no|What a pity|That is not fair}!` said {<hero>|<his> friend}. {They looked out of the window.|They sat "
     "down on the steps, {<sad>|with long faces}.|For a while, they did not know what to do.}",
     "Then {<hero>|<his> friend} {had an idea|jumped up|began to smile}. `{I know|Wait}! {We can <c>!|Why don't we "
     "<c>?|Let us <c>!}` {`That is a great idea!` said the other.|And that is what they did.|They ran to get "
     "everything they needed.}",
     "The two friends <d>. {They laughed so much that they forgot the weather.|It was even better than the first "
     "plan.|They had never had so much fun.|Time flew by.}",
     "{Later|When they looked outside again|In the end}, <e>. {`This was the best day,` said {<hero>|<his> friend}.|`{"
     "The weather|The sky} can change,` said {<hero>|<his> friend}, `but {so can our plans|we can have fun anyway}.`|"
     "They smiled at each other and made a plan for the next day.}"}},
    {"gift", ELDER, false, "af", "{A gift for <elder>|A gift from <hero>|The best gift|Made by hand}",
     gift_en, COUNT(gift_en), {
     "<open> [<be> ]{<Hero>'s <elder> would have a birthday soon|<Hero> knew that <his> <elder>'s birthday was near}, "
     "{but <hero> had no money|and <hero> wanted to give something special}.",
     "{`What can I give?` <hero> {wondered|thought}.|<Hero> thought about it all day.|<Hero> walked around and "
     "thought.} Then <he> {had an idea|knew it}: <a>! {In secret, <he>|Every day after school, <he>|Full of hope, "
     "<he>} <b>.",
     "{Everything went well, but then|But on the last day,|Then something went wrong:} <c>. {<Hero> nearly cried.|`Oh "
     "dear, what now?` said <hero>.|<Hero> felt <sad>.}",
     "{But <he> did not give up.|<Hero> took a deep breath.|<Hero> thought for a while.} {Then <he>|<He>} <d>. {Now "
     "it was even {nicer|better} than before.|Nobody would ever know.|`Yes, that is it!` <hero> said.}",
     "On the {birthday|big day}, <hero> {held out the <f> with both hands|held out the <f>|brought the <f>}. `{Happy "
     "birthday|This is for you}! I made it myself,` <hero> said. <His> <elder>'s eyes {shone|filled with happy tears}.",
     "`{It is the best gift of all|I will keep it in my heart|You made this for me? How lovely},` <ehe> said. <Ehe> {"
     "<e>|hugged <hero> and <e>}. {<Hero> was <joy>.|A gift made with love needs no {money|gold}.}[ <night>]"}},
    {"grow", ELDER, false, "adf", "{The little <f>|What <hero> grew|The <f>}",
     grow_en, COUNT(grow_en), {
     "<open> [<be> ]<elike>",
     "<day> <his> <elder> gave <him> <an a>. `{Plant it and wait|Put it into the earth and take care of it|Look after "
     "it well},` <ehe> said. <Hero> {made a hole|dug a small hole}, put it in and gave it {some|a little} water.",
     "{The next day nothing had changed|For a week, <he> saw nothing but brown earth|Every morning, <hero> ran out to "
     "look, but there was nothing to see}. `{Is it sleeping|Why does it take so long|When will it grow}?` asked "
     "<hero>. `{Give it time|Good things take time|Be patient},` said <his> <elder>.",
     "Then, {one morning|after some rain|one day}, {a tiny green tip came up|there was a bit of green}! <Hero> {"
     "danced around it|called everyone to see}. {But soon|A few days later,} <b>. {So <he>|<Hero> thought about it "
     "and} <c>.",
     "{The plant grew and grew|Days went by, and weeks|The sun shone and the rain fell}. {In the end|At last}, there "
     "was <d>! `{Look what you have done|That is your work|You took good care of it},` said <his> <elder>.",
     "<Hero> {was <joy>|smiled at the <f>}. {Together they|<Hero> and <his> <elder>} <e>. {`{It was worth the wait|"
     "Waiting is hard, but it is worth it},` <hero> said.|<Hero> had learned to {wait|be patient}.}[ <night>]"}},
    {"rescue", PAL, false, "ad", "{The little <a>|Two friends and <an a>|Helping <an a>}",
     rescue_en, COUNT(rescue_en), {
     "<open> [<be> ]<Hero> had a [good ]friend {named|called} <pal>. <plike>",
     "<day> {<hero> and <his> friend|the two friends} {were on the way home|were playing outside|were out for a walk} "
     "when they {heard a small sound|saw something move}. {It was <an a> that <b>.|There was <an a>, and it <b>.|They "
     "found <an a>. The poor thing <b>.}",
     "`{Poor little thing|Look|Oh no}! We have to help it,` {said|whispered} {<hero>|<his> friend}. {`But how?` asked "
     "the other.|They came closer, slowly, so that it would not be afraid.|They thought for a moment.} {Then they|So "
     "they|With gentle hands, they} <c>.",
     "{<Hero> brought|<His> friend ran home and came back with|<Hero> and <his> friend gave it} <d>. {At first, the "
     "<a> did not move. Then it began to eat.|The <a> looked at them with bright eyes.|The little heart beat fast, "
     "but then it grew calm.}",
     "{They stayed close and waited|They watched over it|They sat still and hardly spoke}. {Then|After a while|In the "
     "end}, <e>. {And then it|It} <f>.",
     "`{Goodbye, little friend|Take care, little one}!` {called|said} {<hero>|<his> friend}. {The two friends were "
     "<joy>.|They smiled at each other, {happy|glad} that they had helped.|`It was so small,` said <his> friend, `but "
     "it was worth all our time.`}[ <night>]"}},
    {"build", PAL, false, "ab", "{How to build <a>|What <hero> built|<A>}",
     build_en, COUNT(build_en), {
     "<open> [<be> ]<Hero> had a [good ]friend {named|called} <pal>. <plike>",
     "<day> <hero> said, `{Let us build <a>!|We should build <a>.|Why don't we build <a>?}` {<His> friend liked the "
     "idea|`Yes, let us!` said <his> friend|<His> friend clapped and nodded}. {They found|They got} <b>, and {off "
     "they went|began to work|set to work}.",
     "{It was not easy|At first all went well|They worked all morning}, but <c>. {`It will never work,` {said|sighed} "
     "<his> friend.|<His> friend sat down, <sad>.|<Hero> scratched <his> head.|They tried three times, and three "
     "times it went wrong.}",
     "{<Hero> walked around it and thought.|`Let us not give up,` said <hero>.|They drank some water and thought "
     "again.} {`What if we <d>?`|`Maybe we could <d>,`|`I know! We can <d>!`} {said <hero>|<he> said at last}. {They "
     "tried it at once.|<His> friend jumped up to help.|So they did.}",
     "{And it worked!|This time it worked!|That was it!} {By the evening|Soon|Before supper}, <a> {was ready|stood in "
     "front of them}. <E>. {<Hero> and <his> friend cheered.|They looked at it with pride.|`We did it!` they cried.}",
     "{After that|Then|The next day}, they <f>. {`{Two heads are better than one|Together we can do anything}!` said "
     "<his> friend.|What one of them could not do alone, they had done together.|They were <joy>.}[ <night>]"}},
    {"forest", PAL, true, "", "{The <kind> and the <pkind>|A friend in the forest|The kind <kind>}",
     forest_en, COUNT(forest_en), {
     "<aopen> {Not far away lived <an pkind> named <pal>.|<Hero> had a neighbor, <an pkind> {named|called} <pal>.} "
     "<Pal> {was often alone|was quiet and shy|did not have many friends}.",
     "<day> the <pkind> <a>. {The <pkind> sat {on a stone|under a tree} and {sighed|cried}.|The <pkind> did not know "
     "what to do.|The <pkind> asked the wind for help, but the wind only blew.} {Then <hero> came by|Just then, "
     "<hero> came along the path}.",
     "`<B>,` thought <hero>{ at first|}. But {then <he> looked at the <pkind> again|<his> heart said something else|"
     "<he> could not just walk on}. `{Don't cry|Don't worry|Chin up},` <hero> said. `{I will help you|We will find a "
     "way|You are not alone}.`",
     "{And so|Right away|Without another word}, <hero> <c>. {It took a long time|It was hard work|It was not easy}, "
     "but {in the end|at last} <d>.",
     "`Thank you, <hero>!` said the <pkind>. `{I will not forget it|You are a true friend|How kind you are}.` [The "
     "<kind> only smiled. ]{Some time later|One day|When the moon was full}, the <pkind> <e>.",
     "{Since then|From that day on}, the <kind> and the <pkind> were {the best of friends|never apart for long}. {And "
     "everyone in the forest knew: <f>.|`You see,` said the old owl, `<f>.`|They had both learned that <f>.}"}},
    {"race", PAL, false, "ae", "{<A>|Two friends and the prize|The kind {winner|<child>}}",
     race_en, COUNT(race_en), {
     "<open> [<be> ]<like>",
     "<day> there was <a>. {<Hero> had practiced for weeks|<Hero> wanted to win more than anything|<Hero> could "
     "hardly sleep the night before}. {A <pchild> {named|called} <pal> was there, too. <Pal> lived next door.|<Hero> "
     "had a friend {named|called} <pal>. <Pal> was there, too.}",
     "{`Ready? Go!` {called the judge|cried a loud voice}.|A bell rang, and it began.|Everyone cheered, and it began.}"
     " <Hero> was {in front|doing very well|faster than all the others}. But then <his> friend <b>.",
     "{<Hero> looked at the others, and then at <his> friend.|`If I help, I will not win,` thought <hero>.|For a "
     "moment, <hero> did not know what to do.} {But a friend is more than a prize.|Then <he> knew what was right.} "
     "<Hero> <c>. `{You go on|Don't wait for me},` said <his> friend. `{Not without you|We do this together},` said "
     "<hero>.",
     "{So the two of them|Then they|In the end, <hero> and <his> friend} <d>. {Everyone stood up and clapped|The "
     "people cheered louder than before}. The judge {smiled|came over} and said, `<F>!`",
     "{They got|The judge gave them} <e>. {<Hero> was <joy>, even without the first prize.|`I won something better,` "
     "said <hero>, and looked at <his> friend.|On the way home, <his> friend said, `Thank you. {You are a real friend|"
     "I will never forget it}.`}"}},
    {"trip", ELDER, false, "abef", "{A day at <a>|How <hero> went to <a>|The trip to <a>}",
     trip_en, COUNT(trip_en), {
     "<open> [<be> ]<elike>",
     "<day> <his> <elder> said, `{Get your shoes|Put on your coat|Pack your bag}! {We are going|Let us go} to <a>{!|.}"
     "` {<Hero> jumped up and down|<Hero> was ready in a minute|`Hooray!` cried <hero>}. They went <f>[, and <hero> {"
     "looked at everything|sang|asked a hundred questions} on the way].",
     "{At last they were there.|Then they were there.} <Hero> saw <b>. `{How beautiful|Look at that|Wow}!` <hero> {"
     "said|cried}. {Everything smelled new.|<Hero> did not know where to look first.|<Hero> took <his> <elder>'s hand "
     "and pulled.}",
     "{First, they|Together, they|For a long time, they} <c>. {Then something happened.|And then came the best part.|"
     "But the best was still to come.} <D>! {<Hero> held <his> breath|<Hero> laughed out loud|`Did you see that?` "
     "whispered <hero>}.",
     "{Later|When they were hungry|After that}, they sat down and ate {bread and cheese|sandwiches|rice and eggs|"
     "apples and nuts}. `{Are you tired?` asked <his> <elder>. `Not at all|Do you like it here?` asked <his> <elder>. "
     "`{I want to stay forever|I like it so much}},` said <hero>.",
     "<bye>, <hero> took home <e>. {<Hero> put it {next to <his> bed|on <his> shelf}, so that <he> would always "
     "remember.|`When can we go again?` <hero> asked. <His> <elder> laughed.|On the way back, <he> fell asleep with "
     "it in <his> hand.}"}},
    {"pet", ELDER, false, "af", "{<F> the <a>|A friend for <hero>|The new <a>}",
     pet_en, COUNT(pet_en), {
     "<open> [<be> ]{<Hero> had always wished for <an a>.|<Hero> wanted <an a> more than anything.}",
     "<day> <his> <elder> {came home with a surprise|had a surprise for <him>|called <him> and smiled}: a little <a>! "
     "`{Its name is|It is called} <f>,` <ehe> said. `{You must be gentle with it|It needs food, water and love|You "
     "must look after it every day}.`",
     "But <f> <b>. {`Doesn't it like me?` asked <hero>.|<Hero> was <sad>.|<Hero> wanted to grab it, but stopped.} `{"
     "It is only shy|Everything is new for it},` said <his> <elder>. `{Give it time|Love needs time|Let it come to "
     "you}.`",
     "{So|That day,|The next day,} <hero> <c>. {Nothing happened.|<Hero> waited and waited.|It took a long time.} {"
     "The next day <he> did it again.|<Hero> did not give up.|<Hero> did it every day.} {And then|One evening|At last}"
     ", <f> <d>! {<Hero> did not dare to breathe.|<Hero>'s heart jumped for joy.}",
     "From then on, they were friends. {Every morning|Every day}, <hero> gave <f> food and {fresh|clean} water. {"
     "Sometimes there was trouble, too|Life was never dull}: once, <f> <e>! {Everyone laughed|<Hero> laughed until "
     "<his> sides hurt}.",
     "{`You have learned to be patient,` said <his> <elder>.|`You take good care of it,` said <his> <elder>.|<Hero> "
     "said, `<F> is the best <a> in the world.`}[ <night>]"}},
    {"cook", ELDER, false, "abf", "{What <hero> cooked|<A>|In the kitchen with <elder>}",
     cook_en, COUNT(cook_en), {
     "<open> [<be> ]<elike>",
     "<day> <his> <elder> {asked|said}, `{Shall we|Do you want to|Will you help me} make <a> <f>?` `{Yes, please|Oh "
     "yes|I would love to}!` {said|cried} <hero>, and {washed <his> hands|put on an apron|ran into the kitchen}.",
     "{They needed|First, they got|On the table lay} <b>. <Hero> {stirred|measured|counted} and <his> <elder> {cut|"
     "watched the pot|showed <him> how}. {It was fun|They sang while they worked|<Hero> did everything with care}.",
     "{But|But then|But this time} <c>. {`Now it is spoiled!` said <hero>.|<Hero> looked <sad>.|`What do we do now?` "
     "asked <hero>.} `{That can happen to anyone|That is not so bad|Every cook knows that},` said <his> <elder>. {So "
     "they|Together they} <d>.",
     "{Soon|After a while|At last}, a good smell {filled the house|came from the kitchen}. {They could hardly wait.|"
     "<Hero> set the table.|`Is it ready?` <hero> asked three times.} {They tasted it|Then they took the first bite}: "
     "<e>!",
     "{`You are a real cook,` said <his> <elder>.|`It tastes best when you make it yourself,` said <hero>.|Everyone "
     "wanted more.|<Hero> was <joy>.} {`Next time,` said <hero>, `I will do it all by myself.`|Then they washed the "
     "dishes together, and that was fun, too.}"}},
    {"save", ELDER, false, "acf", "{A wish for <a>|The coin jar|What <hero> saved for}",
     save_en, COUNT(save_en), {
     "<open> [<be> ]{<Hero> saw <a> in the shop window.|<Hero> wished for one thing: <a>.}",
     "`{May I have it|Can I have it|Please, can we buy it}?` <hero> asked <his> <elder>. `{It costs ten coins|It is "
     "not cheap},` {said|answered} <his> <elder>. `{But you can save for it.|Why don't you save for it?|How about "
     "earning it?}` <His> <elder> gave <him> an empty jar.",
     "{So|The next day,} <hero> began to earn coins by <b>. {Every evening|Each day}, one more coin fell into the "
     "jar. {Clink!|It made a lovely sound.|<Hero> counted them again and again.}",
     "{One day|Then}, <he> saw <c> {at the shop|at the fair}. <Hero> {put a hand into <his> pocket|wanted it right "
     "away|almost took the coins out}. But then <he> stopped. `<D>,` <hero> {thought|said to <himself>}, and went {"
     "home|on}.",
     "{At last the jar was full.|And then came the day when the jar was full.} <Hero> {ran|walked proudly} to the "
     "shop {and put all the coins on the table|with the jar in both arms}. {`You did well to wait,` said the woman in "
     "the shop.|`You saved all this? Well done!` said the man in the shop.} Now the <f> was <hers>!",
     "<Hero> <e>. {`It feels different when you have earned it,` said <his> <elder>.|`It was worth the wait,` <hero> "
     "said.|<His> <elder> watched and was proud of <him>.|And the jar? It waited for the next wish.}"}},
};

/* ==== Chinese stories ============================================================================================ *
 * Written for Chinese readers, not translated: other plots of daily life, other turns of speech. Measure words stand in
 * the fields with their nouns (一只风筝), since a frame cannot know them. Extra slots: he is 他 or 她 (它 for animals). */
static const Rule rules_zh[] = {
    {"trait", true, "{善良|活泼|聪明|可爱|懂事|快乐|好奇|热心|勤快|爱笑}"},
    {"home", true, "{小河边|山脚下|小镇上|海边|森林旁边|一条安静的街上|一座小村子里|公园旁边}"},
    {"hobby", true, "{画画|唱歌|看书|讲故事|跑步|跳舞|看云|听故事}"},
    {"open", false,
     "{从前，有一个<trait>的<child>，{名叫|叫}<hero>。|从前，<home>住着一个<trait>的<child>，{名叫|叫}<hero>。|"
     "<home>住着一个<ad>又<ad2>的<child>，{名叫|叫}<hero>。|有一个<trait>的<child>，{名叫|叫}<hero>。}"},
    {"ad", true, "{聪明|善良|活泼}"},
    {"ad2", true, "{可爱|勤快|懂事}"},
    {"be", false, "<hero>{很<ad>|有一双{大|亮亮的}眼睛|总是笑眯眯的|又<ad>又<ad2>}。"},
    {"elike", false, "<hero>{最喜欢|很喜欢|常常}{和|跟}<elder>一起<hobby>{。|，<elder>也很喜欢。|，<elder>总是笑眯眯的。}"},
    {"plike", false, "<pal>{就住在隔壁|也很<ad>|也喜欢<hobby>|和<hero>一样<ad2>}。"},
    {"like", false, "<hero>{最喜欢|很喜欢|平时喜欢}<hobby>{。|，脸上总是带着笑。|，每天都很开心。}"},
    {"aopen", false,
     "{从前，森林里住着一只<trait>的<kind>，{名叫|叫}<hero>。|大森林里有一只<trait>的<kind>，名字叫<hero>。|在一片绿绿的森林里，住着一只{叫|名叫}<hero>的<kind>。}"},
    {"day", false, "{一天<part>，|一个<weather>的<part>，|有一天，|这一天，|星期天的<part>，|吃过早饭，|吃过午饭，|这天天气很好，}"},
    {"joy", true, "{高兴极了|开心得笑了|心里甜甜的|快乐极了|心里暖暖的|笑得像一朵花}"},
    {"sad", true, "{很难过|急得快要哭了|心里很不好受|有点儿伤心}"},
    {"night", false, "{晚上，<hero>{带着微笑睡着了|做了一个甜甜的梦|躺在床上，想着白天的事，笑了}。|睡觉前，<hero>小声说：“{今天真好|今天真开心}！”}"},
};
static const char *const lost_zh[][N_FIELDS] = {
    /* 东西（带量词）, 找过的地方, 又找过的地方, 在哪里, 为什么, 名词 */
    {"一辆红色的小汽车", "床底下", "玩具箱里", "沙发后面", "原来是昨天玩的时候滚进去的", "小汽车"},
    {"一只布娃娃熊", "柜子里", "椅子上", "被子里面", "原来昨晚睡觉的时候，它滑到被子里去了", "小熊"},
    {"一个小皮球", "门口", "花坛边", "高高的草丛里", "原来是风把它吹过去的", "皮球"},
    {"一顶蓝帽子", "架子上", "门后面", "院子里的稻草人头上", "原来是<he>昨天自己给稻草人戴上的", "帽子"},
    {"一本图画书", "书架上", "书包里", "厨房的面粉袋旁边", "原来是<he>帮忙做饼的时候放在那儿的", "图画书"},
    {"一条绿围巾", "衣柜里", "沙发上", "小狗的窝里", "原来小狗也怕冷，把它叼走了", "围巾"},
    {"一把小铜铃铛", "抽屉里", "窗台上", "小猫的垫子下面", "原来小猫喜欢听它叮当响", "铃铛"},
    {"一只木头小船", "澡盆里", "池塘边", "芦苇丛里", "原来是水波把它推过去的", "小船"},
};
static const char *const friend_zh[][N_FIELDS] = {
    /* 地点, 新朋友在做什么, 问话, 一起做了什么, 有趣的事, 下次的打算 */
    {"公园里", "一个人坐在秋千上", "我来推你，好吗", "轮流荡秋千，越荡越高", "风在耳边呼呼地响，两个人笑个不停", "比赛滑滑梯"},
    {"沙滩上", "一个人挖沙子", "我们一起挖，好不好", "挖了一条小河，还堆了一座城堡", "一只小螃蟹爬进城堡里，好像要住下来", "堆一座更大的城堡"},
    {"池塘边", "一个人看小鸭子", "我们一起喂鸭子，好吗", "把饼干掰碎，一点一点喂给小鸭子", "<they>还给每只小鸭子起了名字", "来看小青蛙"},
    {"学校里", "一个人低着头吃饭", "我可以坐在你旁边吗", "一边吃饭，一边讲笑话", "原来两个人都喜欢火车", "一起画一列长长的火车"},
    {"图书馆里", "一个人看一本讲星星的书", "我们一起看，好吗", "从第一页一直看到最后一页", "<they>记住了好多星星的名字", "看一本讲大海的书"},
    {"楼下", "抱着一个大箱子，走得很慢", "要我帮你搬吗", "把箱子一个一个搬上了楼", "空箱子还能搭成一座小房子", "给小房子画上窗户"},
    {"操场上", "一个人站在一边看别人跳绳", "你想和我们一起跳吗", "一个摇绳，一个跳，跳了好多下", "有一次绳子缠在一起，大家都笑了", "学跳新花样"},
    {"花园里", "一个人蹲在地上看蚂蚁", "我们一起看，好吗", "趴在地上看蚂蚁搬家", "有一只小蚂蚁，背着一粒比自己还大的米", "看蝴蝶"},
};
static const char *const learn_zh[][N_FIELDS] = {
    /* 本领, 第一次的结果, 办法, 进步, 成功, 下一个愿望 */
    {"骑自行车", "车子一歪，<he>摔在了草地上", "眼睛看前面，别看脚", "骑得更远一点", "稳稳地骑到了大树下", "骑车去看外婆"},
    {"游泳", "<he>呛了一口水", "先学吹泡泡，再慢慢踢腿", "在水里多待一会儿", "从池子这边游到了那边", "去海里游泳"},
    {"跳绳", "绳子总是绊住脚", "听绳子打地的声音，听到就跳", "多跳一两下", "一口气跳了二十下", "和朋友一起跳大绳"},
    {"系鞋带", "鞋带一下子就散开了", "先做两只兔子耳朵，再打个结", "系得更紧一点", "系出了一个漂亮的蝴蝶结", "给礼物系上丝带"},
    {"放风筝", "风筝一头栽到了地上", "拉紧线，迎着风跑", "让风筝飞得更高一点", "让风筝高高地飞上了天", "自己做一只风筝"},
    {"写毛笔字", "纸上落了一大团墨", "手要稳，心要静", "写得更整齐一点", "写出了一个端端正正的“春”字", "给家里写一副春联"},
    {"吹笛子", "笛子只发出吱吱的怪声", "像吹热汤那样，轻轻地吹", "吹得更好听一点", "吹完了一整首曲子", "在学校的晚会上表演"},
    {"包饺子", "馅儿从皮里跑了出来", "馅儿少放一点，边儿要捏紧", "包得更好看一点", "包出了一排像小元宝一样的饺子", "请朋友来家里吃饺子"},
};
static const char *const share_zh[][N_FIELDS] = {
    /* 主角的东西, 朋友怎么了, 怎么分, 一起做了什么, 第二天朋友的回报, 名词 */
    {"一块香香的蛋糕", "忘了带点心", "把蛋糕切成两半，把大的一半给了朋友", "坐在树荫下，一口一口慢慢吃", "带来两个红红的李子，分给<hero>一个", "蛋糕"},
    {"一盒新彩笔", "只有一支短短的铅笔", "把彩笔放在桌子中间", "画了一道七种颜色的彩虹", "带来好看的贴纸，和<hero>一起贴", "彩笔"},
    {"一块大橡皮泥", "没有东西可玩", "把橡皮泥分成一样大的两块", "捏出了一个小小的动物园", "带来彩色的小珠子，给动物们做眼睛", "橡皮泥"},
    {"一袋樱桃", "手里的冰淇淋掉在了地上", "一颗一颗地数，“你一颗，我一颗”", "坐在台阶上，把樱桃都吃完了", "提来一小篮草莓，请<hero>尝尝", "樱桃"},
    {"一只新风筝", "从来没有放过风筝", "把线轴放到朋友手里", "看着风筝在树顶上飘来飘去", "让<hero>骑自己的滑板车", "风筝"},
    {"一瓶泡泡水", "没有东西可玩", "让朋友先吹", "吹出好大的泡泡，在草地上追着跑", "教<hero>玩一种新的拍手游戏", "泡泡水"},
    {"一盒新拼图", "一个人坐着，没有人陪", "把拼图分了一半过去", "一块一块地把图拼好了", "带来一盒更大的拼图，请<hero>一起拼", "拼图"},
    {"一本有趣的故事书", "的书被雨淋湿了", "把书放在两个人的膝盖上", "你读一页，我读一页", "给<hero>讲了一个更有趣的故事", "故事书"},
};
static const char *const fear_zh[][N_FIELDS] = {
    /* 怕什么, 发生了什么, 道理, 办法, 主角怎么做, 结果 */
    {"黑", "一天夜里，墙边有一个高高的黑影", "天黑了，屋子里的东西还是白天那些东西", "我们开灯看一看", "一步一步走了过去", "原来那只是挂在椅子上的大衣"},
    {"打雷", "一天晚上，天上轰隆隆地响", "雷声只是闪电的声音", "看见闪电，我们就开始数数", "每次闪电以后都大声数数", "数的数越来越大，雷声越走越远了"},
    {"大狗", "有一天，一只大黄狗跑到了门口", "这只狗年纪大了，很温和", "先让它闻闻你的手", "伸出手，一动也不动", "大黄狗舔了舔<he>的手，摇起了尾巴"},
    {"水", "夏天的一天，大家都跳进了湖里", "你放松，水就会托住你", "拉着我的手，躺在水面上", "先用两只手拉着，后来松开了一只", "水像一张软软的床，托住了<he>"},
    {"高高的滑梯", "有一天，小朋友们都去滑高滑梯", "从上面看，总觉得比真的高", "慢慢来，看着我就好", "一级一级爬上去，坐了下来", "呼的一下就到了，真好玩"},
    {"上台说话", "有一天，老师让每个人上台念一首诗", "很多人都会紧张", "先念给小熊听，再念给我听", "念了一遍又一遍，念得像唱歌一样", "念完的时候，全班都鼓起掌来"},
    {"看医生", "有一天，<hero>的耳朵疼，要去看医生", "医生是来帮我们的", "你用力捏我的手吧", "坐得直直的，使劲捏着那只手", "还没数到五，就已经看完了"},
    {"独自睡觉", "这天晚上，<hero>要第一次自己睡", "我就在隔壁，一叫就听得见", "抱着你的小熊，数一数星星", "抱着小熊，数起了窗外的星星", "数着数着，天就亮了"},
};
static const char *const help_zh[][N_FIELDS] = {
    /* 长辈在做什么, 主角做什么, 遇到的困难, 办法, 结果, 名词 */
    {"正在晒一大盆衣服", "晾衣服", "绳子太高，够不着", "站到一个小木凳上", "白白的床单在风里飘，像船上的帆", "衣服"},
    {"正在扫院子里的落叶", "扫落叶", "一阵风又把叶子吹散了", "扫一堆就马上装进袋子里", "院子里干干净净，袋子装得满满的", "落叶"},
    {"正在刷院子的木栏杆", "刷下面的木板", "油漆滴到了鞋上", "擦干净鞋子，每次少蘸一点漆", "栏杆在太阳下白得发亮", "栏杆"},
    {"正在菜园里拔草", "拔草", "有一棵草怎么也拔不出来", "拿小勺子把土挖松", "小白菜有了地方，可以好好长大了", "小草"},
    {"正在往屋里搬木柴", "搬小块的木柴", "柴堆哗啦一声倒了", "把大块的放在下面，小块的放在上面", "木柴码得整整齐齐，像一堵墙", "木柴"},
    {"正在和面做馒头", "揉面", "面粘在手上，甩也甩不掉", "在手上抹了一点干面粉", "一屋子都是热馒头的香味", "馒头"},
    {"正在擦满是灰的窗户", "擦矮的那一块", "越擦越花", "换了一盆清水，再用旧报纸擦一遍", "窗户亮得好像没有玻璃一样", "窗户"},
    {"正在鸡窝里捡鸡蛋", "捡鸡蛋", "有一只母鸡不肯起来", "撒了一把玉米，耐心地等着", "篮子里装了九个圆圆的鸡蛋", "鸡蛋"},
};
static const char *const sorry_zh[][N_FIELDS] = {
    /* 做错的事, 当时在做什么, 想怎么瞒, 怎么补救, 以后怎么做, 名词 */
    {"打碎了花瓶", "在屋里跑来跑去", "把碎片藏到地毯下面", "用胶水把花瓶粘好了", "在屋里总是慢慢走", "花瓶"},
    {"把果汁洒在了地毯上", "端着杯子跳舞", "用椅子挡住那块印子", "用肥皂水把地毯刷干净了", "喝东西的时候总是坐好", "地毯"},
    {"弄丢了菜园的钥匙", "拿着钥匙玩", "什么也不说", "在沙堆里找了又找，找到了钥匙", "用完钥匙就挂回去", "钥匙"},
    {"把留给客人的点心吃光了", "在厨房里尝点心", "说是小猫吃的", "重新做了一盘点心", "想吃什么都先问一问", "点心"},
    {"撕坏了一页书", "急急忙忙地翻书", "把书塞到柜子后面", "用胶带把那一页补好了", "看书时总是轻轻地翻", "书"},
    {"踩倒了菜苗", "在园子里追皮球", "说是小狗踩的", "把菜苗一棵一棵扶起来，绑上小棍子", "只在草地上玩球", "菜苗"},
    {"弄脏了白桌布", "在桌上画画", "用盘子盖住那块印子", "把桌布洗得干干净净", "画画时先铺一张旧报纸", "桌布"},
    {"放跑了笼子里的小兔子", "玩笼子的小门", "说是风把门吹开的", "在花园里找到小兔子，把它抱了回来", "每次都把小门关好", "小兔子"},
};
static const char *const weather_zh[][N_FIELDS] = {
    /* 计划, 天气, 新主意, 玩得怎样, 最后的景象, 名词 */
    {"去公园野餐", "天上飘来乌云，下起了雨", "在家里的地板上野餐", "铺上一块花布，坐在桌子底下吃面包", "天边出现了一道彩虹", "野餐"},
    {"去放风筝", "风停了，树叶一动也不动", "给风筝画上眼睛和长尾巴", "把它画成了街上最漂亮的风筝", "傍晚吹来了一阵轻轻的风", "风筝"},
    {"去湖里游泳", "刮起了大风，湖上起了浪", "在澡盆里造一片大海", "折了十只纸船，让它们排成一队", "风停了，湖面静得像一面镜子", "大海"},
    {"堆一个雪人", "太阳出来，雪都化了", "用泥巴堆一个泥人", "给它做了圆圆的肚子，戴上草帽子", "路过的人看见泥人，都停下来笑", "泥人"},
    {"骑车去看荷花", "起了大雾，连路都看不清", "在家里画一池荷花", "画了绿叶、红花，还有一只小青蛙", "雾散了，太阳笑眯眯地出来了", "荷花"},
    {"在院子里踢球", "下起了小冰雹，像一粒粒白豆子", "在走廊里用袜子当球玩", "把袜子卷成团，往篮子里投，还记了分", "院子里一片白，在太阳下闪闪发光", "球赛"},
    {"到山坡上看星星", "厚厚的云把天遮住了", "自己做一片星空", "用黄纸剪出许多星星，挂在床头", "云散开了，一颗真的星星在窗外眨眼睛", "星星"},
    {"去看花灯", "忽然下起了大雪", "在家里做花灯", "糊了一盏兔子灯，里面放上小灯泡", "雪停了，雪地被灯照得红红的", "花灯"},
};
static const char *const gift_zh[][N_FIELDS] = {
    /* 礼物, 怎么做, 出的问题, 办法, 长辈怎么做, 名词 */
    {"一张贴着干花的卡片", "采来小花，夹在厚厚的书里压干", "有一朵花碎了", "用碎花瓣拼成了一只蝴蝶", "把它放在床头", "卡片"},
    {"一串珠子", "把红珠子和蓝珠子一颗颗穿起来", "珠子掉下来，滚了一地", "一颗一颗捡起来，打了一个结实的结", "戴在了脖子上", "珠子"},
    {"一幅全家的画", "把每个人都画得笑眯眯的", "一滴水落在了天空上", "把湿的地方画成一朵白云", "把它挂在墙上", "画"},
    {"一个泥碗", "把泥揉软，捏得又圆又光", "碗边裂了一道缝", "在裂缝上贴了一片泥做的叶子", "用它来装花生", "泥碗"},
    {"一顶纸王冠", "把金色的纸剪成星星", "纸圈做小了", "接上了一条红布", "把它戴在了头上", "王冠"},
    {"一双毛线袜子", "用绿毛线学着织", "两只袜子一长一短", "在短的那只上加了一道红边", "马上就穿上了", "袜子"},
    {"一盆小花园", "在盆里放上青苔、石子和小草", "花盆漏水了", "在下面垫了一个盘子", "把它摆在窗台上", "小花园"},
    {"一个布书签", "剪下一块花布，一针一针地缝", "线打了一个结", "把结藏进了一朵小布花里", "把它夹在最喜欢的书里", "书签"},
};
static const char *const grow_zh[][N_FIELDS] = {
    /* 种子, 麻烦, 办法, 长出了什么, 后来怎样, 名词 */
    {"一粒向日葵种子", "有一只蜗牛来吃叶子", "把蜗牛送到了园子的另一头", "一棵高高的向日葵，花盘像太阳一样", "把瓜子留给小鸟吃", "向日葵"},
    {"一粒豆子", "豆苗软软的，没有地方爬", "插了一根长竹竿给它爬", "一架绿绿的豆角", "用豆角做了一锅香喷喷的焖面", "豆苗"},
    {"一粒南瓜籽", "天太热，叶子都垂了下来", "每天一大早就给它浇水", "一个像凳子那么大的南瓜", "煮了一锅甜甜的南瓜粥", "南瓜"},
    {"一粒西红柿种子", "夜里要降温了", "用旧花盆把它盖住", "一串红红的西红柿", "把第一个送给了邻居", "西红柿"},
    {"一棵草莓苗", "小鸟总想来啄草莓", "在上面挂了一个亮晶晶的勺子", "好多又红又甜的草莓", "坐在园子里，一人一颗地吃", "草莓"},
    {"一粒胡萝卜种子", "野草长得比它还快", "把野草一棵一棵拔掉", "一根又长又红的胡萝卜", "把绿叶子喂给了小兔子", "胡萝卜"},
    {"一块水仙的根", "水有点儿臭了", "每天给它换清水", "几朵白色的小花，满屋子都香", "把它画了下来", "水仙"},
    {"一棵小桃树", "小羊想来啃树皮", "在四周围上了小篱笆", "满树粉红的桃花", "每年春天都在树下照一张相", "桃树"},
};
static const char *const rescue_zh[][N_FIELDS] = {
    /* 小动物（带量词）, 怎么了, 怎么救, 喂什么, 好了, 去了哪里 */
    {"一只小鸟", "翅膀受了伤", "把它放进铺着软布的盒子里", "小米和清水", "小鸟张开了翅膀", "飞上了最高的树枝"},
    {"一只小猫", "卡在高高的树杈上下不来", "找来一块长木板，靠在树上", "温热的牛奶", "小猫一步一步走了下来", "钻进了朋友的怀里"},
    {"一只小乌龟", "四脚朝天，翻不过身来", "轻轻把它翻过来，抱到草地上", "新鲜的菜叶", "小乌龟伸出了头", "慢慢爬回了池塘"},
    {"一只小刺猬", "掉进了一个深坑", "往坑里放了一块木板", "苹果片", "小刺猬顺着木板爬了上来", "钻进了草丛"},
    {"一只小狗", "浑身湿透，找不到家了", "用大毛巾把它擦干", "馒头和热汤", "小狗听见远处有人叫它的名字", "摇着尾巴跑向了主人"},
    {"一只小鸭子", "找不到妈妈了", "把它放在帽子里，捧到河边", "碎菜叶", "小鸭子听见了鸭妈妈的叫声", "飞快地游到了妈妈身边"},
    {"一只小松鼠", "被一张旧网缠住了", "小心地把网剪开", "花生和松子", "小松鼠的腿又有劲儿了", "从这棵树跳到了那棵树"},
    {"一只小蜜蜂", "累得飞不动了", "把它放在一朵黄花上", "一滴糖水", "小蜜蜂擦了擦翅膀", "嗡嗡地飞回了蜂房"},
};
static const char *const forest_zh[][N_FIELDS] = {
    /* 朋友的难处, 主角起先的念头, 主角做的事, 结果, 后来的报答, 道理 */
    {"没有过冬的粮食", "这些松果是我辛辛苦苦捡来的", "把松果分了一半送过去", "大家都吃得饱饱的，一直到春天", "带<hero>去了最甜的莓子地", "帮助别人，也是帮助自己"},
    {"过不了河", "河又不是我弄宽的", "推来一根长木头，架在河上", "<pkind>稳稳当当地走了过去", "从河那边带回了又大又红的苹果", "好心就像一座桥"},
    {"迷了路", "天晚了，我也累了", "提着灯笼，一路送<pkind>回家", "<they>看见了<pkind>家窗户里的灯光", "在门口挂了一盏灯，让<hero>随时能找到", "有朋友做伴，路就不长"},
    {"脚上扎了一根刺", "也许会有别人来帮忙", "慢慢地、轻轻地把刺拔了出来", "<pkind>又能跑又能跳了", "在暴风雨来之前，赶来告诉<hero>", "小小的手也能做大大的好事"},
    {"的房子被大风吹倒了", "我的房子好好的", "搬来树枝和青苔，帮着盖新屋顶", "新房子比原来的还结实", "请<hero>来新家吃了第一顿热饭", "人多力量大"},
    {"没有被请去参加晚会", "我自己去就行了", "请大家再添一把椅子", "晚会上也有了<pkind>的位子", "在晚会上为<hero>唱了一支最好听的歌", "多一个朋友，就多一份快乐"},
    {"被猫头鹰吵得睡不着", "我自己睡得很香", "请猫头鹰唱得轻一点", "整个森林都安安静静地睡着了", "用软软的羽毛给<hero>做了一个枕头", "好好说话，事情就好办"},
    {"把大家的风筝弄破了", "又不是我弄破的", "用一片大绿叶把风筝补好", "风筝飞得比从前还要高", "让<hero>第一个放风筝", "破了的东西，用心补一补会更好"},
};
static const char *const moon_zh[][N_FIELDS] = {
    /* 节日, 吃什么, 主角做什么, 小插曲, 最好的时刻, 长辈讲的 */
    {"中秋节", "月饼", "把月饼切成小块", "小猫偷偷叼走了一块", "又圆又亮的月亮升起来了", "嫦娥和玉兔的故事"},
    {"春节", "饺子", "帮忙贴红红的春联", "福字差一点儿贴歪了", "门外响起了热闹的锣鼓声", "年兽害怕红颜色的故事"},
    {"元宵节", "汤圆", "糊了一盏兔子灯", "兔子灯的耳朵掉了一只，赶紧又粘上", "满街的灯一下子都亮了", "猜灯谜的老办法"},
    {"端午节", "粽子", "学着用绿叶包米", "米撒了一桌子", "河上的龙舟像箭一样划过来", "屈原的故事"},
    {"重阳节", "重阳糕", "采来一把黄黄的菊花", "爬山时帽子被风吹跑了，又追了回来", "大家站在山顶上，看得好远好远", "自己小时候爬山的故事"},
    {"冬至", "热汤圆", "在桌上摆好碗筷", "汤圆太烫，大家都呼呼地吹", "窗外飘起了雪花，屋里热气腾腾", "冬天过去春天就来的道理"},
};
static const char *const race_zh[][N_FIELDS] = {
    /* 比赛, 朋友出了什么事, 主角做了什么, 怎么到终点, 奖品, 评语 */
    {"跑步比赛", "被石头绊倒了", "跑回去扶起朋友", "手拉着手跑过了终点", "一条红丝带，一人一半", "友谊比丝带更宝贵"},
    {"纸船比赛", "的纸船翻了", "把自己多带的一张纸送给了朋友", "让两只小船并排漂了过去", "两面小蓝旗", "这才是真正的一帆风顺"},
    {"自行车比赛", "的车胎没气了", "停下来，帮忙补好了车胎", "唱着歌，一起骑到了终点", "两个亮闪闪的车铃", "这是我见过的最暖心的比赛"},
    {"堆沙堡比赛", "的沙堡被浪冲倒了", "提来湿沙子和铲子", "用一座桥把两个沙堡连在了一起", "一顶金色的纸王冠", "两个人一起做，才是最好的"},
    {"讲故事比赛", "忘了词，脸都红了", "走到朋友身边，叫朋友别急，慢慢想", "一起把故事讲到了最后", "两本新书，一人一本", "好朋友讲出了好故事"},
    {"爬山比赛", "崴了脚，坐在路边", "扶着朋友，一步一步往上走", "最后一个到了山顶", "山顶上的一束野花", "你们最慢，可是最了不起"},
};
static const char *const trip_zh[][N_FIELDS] = {
    /* 去哪里, 看见什么, 做什么, 惊喜, 带回什么, 怎么去 */
    {"海边", "蓝蓝的大海和白白的浪花", "在湿湿的沙滩上捡贝壳", "一只小螃蟹从<hero>的脚上爬了过去", "一个粉红色的贝壳", "坐火车"},
    {"农场", "吃草的牛、羊，还有一头胖胖的小猪", "拿青草喂小羊", "一只小羊跟在<hero>后面，像小狗一样", "一袋新鲜的李子", "坐汽车"},
    {"动物园", "高高的长颈鹿和爱睡觉的狮子", "看猴子荡秋千", "大象用鼻子向<hero>打招呼", "一张大象的照片", "坐公共汽车"},
    {"集市", "红辣椒、黄橘子和活蹦乱跳的鱼", "尝了糖葫芦和芝麻饼", "捏面人的老爷爷捏了一个小小的<hero>", "那个小面人", "走路"},
    {"山里", "绿绿的树林和一条亮晶晶的小溪", "沿着石头台阶往上爬", "到了山顶，一朵云飘过来，把脚都遮住了", "一块光滑的小石头", "坐火车"},
    {"城里", "高高的楼房和一座挂满灯的大桥", "坐电梯上了高塔", "一只白鸽落在了<hero>的手臂上", "一个小铃铛", "坐火车"},
    {"博物馆", "古老的大船和恐龙的骨头", "拼了一幅恐龙拼图", "一只会动的大恐龙转过头来", "一只小小的玩具恐龙", "坐地铁"},
    {"竹林", "密密的竹子和刚冒头的竹笋", "静静地听鸟叫和风声", "一只松鼠停下来，看了<hero>好久", "一片竹叶", "走路"},
};
static const char *const pet_zh[][N_FIELDS] = {
    /* 宠物（带量词）, 怎么害羞, 主角怎么做, 第一次亲近, 淘气的事, 名字 */
    {"一只小猫", "躲到沙发底下不出来", "坐在地上，轻轻滚着毛线球", "伸出小爪子，碰了碰毛线球", "钻进鞋子里睡着了", "花花"},
    {"一只小狗", "对着门口呜呜地叫", "躺在它的窝旁边，哼着歌", "把头靠在了<hero>的胳膊上", "把一只袜子叼到了院子里", "旺旺"},
    {"一只小兔子", "缩在角落里，一动也不动", "拿着一小块胡萝卜，慢慢地等", "轻轻地咬了一小口", "把图画书的一角吃掉了", "雪球"},
    {"一只鹦鹉", "背对着大家，谁也不理", "坐在笼子旁边大声念故事", "转过身来听", "在早饭时说“晚安”", "阿绿"},
    {"一条金鱼", "总是躲在水草后面", "每天同一个时候来喂一点点食", "游到了玻璃前面", "把水溅到了窗户上", "闪闪"},
    {"一只小乌龟", "把头缩进了壳里", "放下一片菜叶，安安静静地看着", "伸出鼻子，闻了闻菜叶", "到柜子底下散步去了", "石头"},
    {"一只小仓鼠", "钻进了厚厚的木屑里", "在木屑上撒了一路瓜子", "把瓜子一颗一颗都吃了", "把两边腮帮子塞得鼓鼓的", "球球"},
    {"一只小鸭子", "不停地嘎嘎叫", "放了一盆清水，蹲在旁边陪着", "摇摇摆摆地走到<hero>脚边", "跟着<hero>一直走到了学校门口", "黄黄"},
};
static const char *const save_zh[][N_FIELDS] = {
    /* 愿望（带量词）, 怎么挣, 诱惑, 想法, 买到以后, 名词 */
    {"一只红风筝", "帮邻居浇花", "一包糖", "糖一会儿就吃完了", "在田野上放风筝，一直放到太阳下山", "风筝"},
    {"一本讲大海的书", "帮果园捡苹果", "一把塑料剑", "剑会断，书能看很久", "坐在树下，一页一页地读", "书"},
    {"一面小鼓", "帮邻居遛狗", "一盒贴纸", "贴纸不会发出声音", "轻轻地敲，不吵到别人", "小鼓"},
    {"一盒颜料", "帮忙擦窗户", "一个大冰淇淋", "冰淇淋会化，颜色不会", "画了房子、街道和天空", "颜料"},
    {"一辆蓝滑板车", "帮忙送报纸", "一个滑稽的面具", "面具只好笑一天", "在街上骑来骑去", "滑板车"},
    {"一架小望远镜", "帮邻居喂猫", "一袋玻璃球", "月亮我可以看好多年", "看见了月亮上的山", "望远镜"},
    {"一个篮球", "帮忙扫落叶", "一个亮闪闪的哨子", "有了球，就能和大家一起玩", "和整条街的小朋友一起打球", "篮球"},
    {"一双溜冰鞋", "帮忙扫院子", "一个粉红色的气球", "气球会飞走的", "马上就去了冰场", "溜冰鞋"},
};

static const Plot plots_zh[] = {
    {"lost", ELDER, false, "abcdf", "{丢了的<f>|<hero>和<f>|<f>在哪里|<hero>找<f>}", lost_zh, COUNT(lost_zh), {
     "<open>[<be>]{<hero>有<a>，{那是<he>最心爱的东西|走到哪儿都带着|每天都舍不得放下}。|<hero>有<a>，是<elder>送的，<he>喜欢得不得了。}",
     "<day>{<f>不见了|<hero>怎么也找不到<f>|<hero>想玩<f>，可是它不在老地方}。<hero>{先看了看<b>，没有；又看了看<c>，还是没有|找了<b>，又找了<c>，都没有|把<b>和<c>都找遍了，"
     "连影子也没看见}。<hero><sad>。",
     "{<elder>走过来问|<elder>听见了，走过来问|<elder>看见<he>愁眉苦脸的，就问}：“{怎么了|你在找什么呀|出什么事了}？”“我的<f>{不见了|丢了}！”<hero>{说|回答|小声说}。",
     "“{别着急|别担心|不要难过}，”<elder>{说|笑着说|摸着<he>的头说}，“{我们一起找，一定能找到。|好好想一想，最后一次是在哪儿看见的？|静下心来，慢慢找。}”",
     "{<they>一个角落一个角落地找|<hero>闭上眼睛，想了又想|<they>打着手电筒又找了一遍}。{忽然|过了一会儿|最后}，<hero>{叫了起来|眼睛一亮|高兴地跳了起来}：“{找到了|在这儿呢|看，在那儿}！"
     "”<f>{就|正好好地|安安静静地}待在<d>。<e>。",
     "<hero>{紧紧抱住<f>|捧着<f>}，<joy>。{“谢谢你帮我！”<hero>对<elder>说。|从那以后，<he>每次用完都把<f>放回原处。|<elder>说：“四只眼睛比两只眼睛看得清楚。”|<elder>也"
     "笑了：“下次要记得放好哦。”}[<night>]"}},
    {"friend", PAL, false, "a", "{新朋友|<hero>交朋友|<hero>和朋友|一声“你好”}", friend_zh, COUNT(friend_zh), {
     "<open>[<be>]<like>",
     "<day><hero>来到<a>，看见一个{不认识的|新来的}<pchild><b>。{那个<pchild>看起来有点儿孤单|谁也没有和那个<pchild>说话|<hero>以前没见过这个<pchild>}。",
     "{<hero>有点儿害羞，可还是走了过去|<hero>想：“一个人多没意思啊。”<hero>走了过去|<hero>鼓起勇气走了过去}，{笑着|轻轻地|大方地}说：“你好，我叫<hero>。<c>？”",
     "那个<pchild>{抬起头，笑了|高兴地点点头|眼睛一下子亮了}：“{好啊|太好了|当然好}！我叫<pal>。”",
     "{于是|就这样|很快}，{<hero>和朋友|两个人|<they>}<d>。<e>。",
     "{太阳下山了|该回家了|天快黑了}，朋友问：“{明天你还来吗？”“来|明天你还来吗？”“一定来|我们还能一起玩吗？”“当然能}！”<hero>说，“{下次|明天}我们<f>吧！”{从那天起，<they>成了好朋友。|一声“你"
     "好”，换来了一个新朋友。|朋友再也不孤单了。|<hero>一路蹦蹦跳跳地回了家，<joy>。}"}},
    {"learn", ELDER, false, "", "{<hero>学<a>|<hero>不放弃|再试一次}", learn_zh, COUNT(learn_zh), {
     "<open>[<be>]{<hero>一直想学<a>|<hero>很想学会<a>|<hero>看见别人会<a>，自己也想学}。",
     "<day><elder>{笑着说|对<he>说}：“{来，我教你|今天我们试一试|我们一起来学，好吗}{！|。}”{可是第一次试的时候|没想到，刚一开始|谁知道，试了一下}，<b>。",
     "“{我学不会|太难了|我不行}，”<hero>{低着头说|说，眼泪都快掉下来了|叹了一口气}。“{谁第一次都不会|我小时候也一样|别怕，慢慢来}，”<elder>{说|笑着说|摸着<he>的头说}，“<c>。”",
     "<hero>{点点头，又试了一次|擦擦眼泪，接着练|听了，一遍又一遍地练}。{几天下来|练着练着|一天又一天}，<he>每次都能<d>。",
     "{终于|一个星期后|有一天}，<he><e>！“{你成功了|我就知道你行|真了不起}！”<elder>{拍着手说|高兴地喊|竖起了大拇指}。",
     "<hero><joy>。{“下次我要<f>！”<hero>说。|<hero>明白了：{只要肯练，难事也会变容易|多试几次，总会成功}。|<elder>说：“这不是变戏法，是你一次一次练出来的。”}[<night>]"}},
    {"share", PAL, false, "af", "{分享|一起玩的<f>|两个人的<f>|一人一半}", share_zh, COUNT(share_zh), {
     "<open>[<be>]<hero>有个{好朋友|同学|邻居}，{名叫|叫}<pal>。<plike>",
     "<day><hero>{带着|拿着}<a>，{心里美滋滋的|高高兴兴地出了门|这是<he>盼了好几天才得到的}。{走着走着|这时候}，<he>看见了朋友。朋友<b>，{<sad>|一句话也不说|眼睛看着地上}。",
     "{<hero>想：“要是分给别人，我的就少了。”可是看看朋友，<he>又想：“朋友开心，我才开心。”|<hero>想：“要是换成我，会多难过呀！”|<hero>想都没想就走了过去。|<hero>犹豫了一下，很快拿定了主意。"
     "}",
     "“{来，我们一起|咱们两个人够了|别难过，有我呢}！”{<hero>说着，|说完，<hero>|<hero>一边说，一边走过去，}<c>。朋友{笑了。|高兴地说：“谢谢你！”|眼睛亮了起来：“真的吗？太谢谢你了！”}",
     "两个好朋友<d>。{比一个人的时候有意思多了|<they>又说又笑，忘了时间|大家都说，好久没有这么开心了}。",
     "{第二天|过了几天|没过多久}，朋友<e>。{<hero>明白了：快乐分给别人，就会变成两份。|“好朋友就是这样的！”朋友说。|两个人的心里都暖暖的。|从此，<they>有什么好东西都一起分享。}"}},
    {"fear", ELDER, false, "a", "{勇敢的<hero>|<hero>不怕了|不怕<a>}", fear_zh, COUNT(fear_zh), {
     "<open>[<be>]<elike>{可是<hero>有一样不好：怕<a>。|<hero>什么都不怕，就怕<a>。|不过，<hero>有点儿怕<a>。}",
     "<b>。<hero>{心怦怦直跳|手心都出汗了|腿有点儿发抖|吓得不敢动}。“我害怕，”<hero>{小声说|拉着<elder>的衣角说|说}。",
     "<elder>{没有笑<he>|握住<he>的手|蹲下来}，{轻轻地|温和地|慢慢地}说：“{没关系|别怕|我小时候也怕过}。<c>。<d>。”",
     "<hero>{深深吸了一口气|点了点头|想了想，鼓起勇气}，<e>。",
     "{结果呢？|你猜怎么样？|嘿！}<f>！<hero>{忍不住笑了。|松了一口气，笑了。|笑着说：“原来没什么可怕的！”}",
     "{<elder>说：“{害怕的时候还愿意试一试，这就是勇敢|你真勇敢}。”|从那以后，<hero>再也不怕<a>了。|<hero>挺起胸来，觉得自己长高了一点儿。}[<night>]"}},
    {"help", ELDER, false, "f", "{小帮手|<hero>来帮忙|<hero>和<f>|好帮手<hero>}", help_zh, COUNT(help_zh), {
     "<open>[<be>]<elike>",
     "<day><hero>看见<elder><a>，{忙得满头大汗|一个人忙不过来|累得直擦汗}。",
     "“{我来帮忙，好吗？|让我也来干吧！|我能做点儿什么吗？}”<hero>说。“{好啊|太好了|那可真好}，”<elder>{笑着说|高兴地说}，“你来<b>吧。”",
     "<hero>{卷起袖子|二话不说}，{马上干了起来|认真地干起来}。{可是|没想到|干着干着}，<c>。<hero>{想了想|没有泄气，动了动脑筋|歪着头想了一会儿}，<d>，{好多了|这下行了|办法真不错}。",
     "{过了一会儿|不一会儿|干完活儿一看}，<e>。“{多亏有你|你真是我的好帮手|你长大了}！”<elder>{夸<he>说|说}。",
     "{<hero>虽然有点儿累，可是<joy>。|<they>坐下来，一起{吃了一个甜橘子|喝了一杯凉茶|吃了几块西瓜}。|<hero>说：“{两个人干活儿，又快又好玩|帮助别人真快乐}！”}[<night>]"}},
    {"sorry", ELDER, false, "f", "{<hero>认错|诚实的<hero>|<f>的事}", sorry_zh, COUNT(sorry_zh), {
     "<open>[<be>]<elike>",
     "<day><hero><b>，一不小心<a>。{<hero>吓了一跳|<hero>呆住了|<he>的脸一下子红了}。{屋里静悄悄的，谁也没看见。|旁边一个人也没有。|怎么办呢？}",
     "<he>{想|本来想|差一点儿就}<c>，可是{心里像压着一块石头|怎么也高兴不起来|又觉得那样不对}。",
     "{最后|想来想去}，<hero>走到<elder>面前，{低着头|红着脸|小声}说：“{对不起|我做错了一件事}，我<a>。{是我不好|我不是故意的|请你原谅我}。”",
     "<elder>{听了，摸摸<he>的头|看了看<he>，点点头|没有生气}，说：“{做错了不要紧，说实话就是好孩子|你能说出来，我很高兴|肯认错，就很了不起}。{来，我们一起想办法|我们一起把它弄好吧}。”{<they>一起"
     "|两个人|说着，两个人}<d>。",
     "{从那以后|从此|从这一天起}，<hero><e>。{<hero>知道了：{说实话，心里才轻松|有错就改，还是好孩子}。|<he>的心里又像天空一样晴朗了。|<elder>说：“诚实比什么都宝贵。”}"}},
    {"weather", PAL, false, "f", "{改了的计划|两个人的好主意|天气变了}", weather_zh, COUNT(weather_zh), {
     "<open>[<be>]<hero>有一个{好朋友|最好的朋友}，{名叫|叫}<pal>。<plike>",
     "{一天|有一天|星期天}，{<hero>和朋友|<they>俩}说好了要<a>。{东西都准备好了|<they>盼了整整一个星期|两个人高兴得一晚上没睡好}。{谁知道|可是|没想到}，<b>。",
     "“{唉|哎呀}，{去不成了|真可惜|真扫兴}！”{<hero>|朋友}说。{两个人趴在窗台上，往外看了好久|<they>坐在门口，谁也不说话|<they>你看看我，我看看你}。",
     "忽然，{<hero>|朋友}{拍了一下手|眼睛一亮|跳了起来}：“有了！我们可以<c>！”“{好主意|太好了|这个好玩}！”{两个人马上动起手来|说干就干}。",
     "{<they>|两个人|两个好朋友}<d>。{两个人笑个不停，早把天气忘了|比原来的计划还要好玩|时间过得真快}。",
     "{后来|傍晚|等<they>再往外看的时候}，<e>。{“今天真开心！”{<hero>|朋友}说。|“天气会变，我们的主意也会变！”{<hero>|朋友}笑着说。|<they>说好，明天还要一起玩。}"}},
    {"gift", ELDER, false, "af", "{给<elder>的礼物|<hero>的礼物|生日礼物|自己做的<f>}", gift_zh, COUNT(gift_zh), {
     "<open>[<be>]<hero>知道，{<elder>的生日快到了|过几天就是<elder>的生日|<elder>要过生日了}。<hero>想{送一件特别的礼物|给<elder>一个惊喜}。",
     "{可是<he>没有钱，怎么办呢？|送什么好呢？|送什么好呢？<he>想了一天。}{忽然，<he>有了主意|<hero>看看自己的一双手，有了主意}：做<a>！<he>{悄悄地|每天放学以后|认认真真地}<b>。",
     "{眼看就要做好了|做到一半|最后一天|没想到}，<c>。<hero><sad>。",
     "{不过<he>没有放弃|<hero>看了又看，想了又想|<hero>吸了一口气，静下心来|过了一会儿，<he>笑了}，<d>。{这样一来，比原来还要好看|嘿，这下更特别了|“好了！”<hero>高兴地说}。",
     "生日那天，<hero>{双手捧着|拿出}<f>，说：“{生日快乐|祝你生日快乐}！{这是我自己做的|这是送给你的}。”<elder>{又惊又喜|眼睛都湿了|高兴得说不出话来}。",
     "“{这是我收到的最好的礼物|你的心意，我最喜欢}，”<elder>说，{马上<e>|一边笑，一边抱住<he>}。{<hero><joy>。|用心做的礼物，比什么都珍贵。}[<night>]"}},
    {"grow", ELDER, false, "adf", "{<hero>种<f>|小小的<f>|<hero>的<f>}", grow_zh, COUNT(grow_zh), {
     "<open>[<be>]<elike>",
     "<day><elder>给了<hero><a>，说：“{好好照顾它|种下去，慢慢等|它会给你一个惊喜}。”<hero>{小心地|高高兴兴地}把它种{好|下}，{浇了一点儿水|还在旁边插了一个写着名字的小牌子}。",
     "{第二天，什么变化也没有|一连几天，都没有什么动静}。“{它怎么还不长呀|它是不是睡着了}？”<hero>问。“{别急，好东西都要等|要有耐心}，”<elder>说。",
     "{几天后的早晨|下过一场雨以后}，{一点儿嫩绿冒了出来|它长出了嫩绿的新芽}！<hero>{高兴得直拍手|叫大家都来看}。{可是|不久|谁知}，<b>。{<hero>赶紧|<hero>想了想，|<elder>和<hero>一"
     "起}<c>。",
     "{日子一天天过去|太阳晒，雨水浇}，{终于，|到最后，|有一天，}长出了<d>。“{看，这是你的功劳|是你把它照顾得这么好}！”<elder>说。",
     "<hero>{和<elder>一起|高兴地}<e>。{<hero>懂得了：{有耐心，才有收获|用心照顾，就会有收获}。|“等得真值得！”<hero>笑着说。}"}},
    {"rescue", PAL, false, "ad", "{救小动物|<hero>和朋友做好事|小小的客人}", rescue_zh, COUNT(rescue_zh), {
     "<open>[<be>]<hero>有一个好朋友，{名叫|叫}<pal>。<plike>",
     "<day>{<they>俩|<hero>和朋友}{在回家的路上|正在外面玩|去散步}，{听见一个细小的声音|看见前面有东西在动}。{走近一看|跑过去一看}，是<a>，它<b>。",
     "“{好可怜啊|真可怜|哎呀}，我们{帮帮它|救救它}吧！”{<hero>|朋友}说。{<they>慢慢地走过去，怕吓着它。|两个人想了想办法。|“可是怎么办呢？”另一个问。}{然后，|于是，|说着，}<they><c>。",
     "<hero>{拿来了|跑回家拿来}<d>。{开始，小家伙不敢动，后来就吃了起来|小家伙看着<they>，眼睛亮亮的|小家伙一口一口地吃了起来}。",
     "{<they>静静地守在旁边|<they>轻轻地等着，不敢大声说话}。{过了很久|过了一会儿|后来}，<e>，{然后|接着}就<f>。",
     "“{再见，小家伙|要好好的啊}！”{<hero>|朋友}{说|挥着手说}。{两个好朋友<joy>。|帮助了这么小的朋友，<they>觉得比什么都快乐。|<they>手拉着手回家了，一路上都在说这件事。}"}},
    {"forest", PAL, true, "", "{<kind>和<pkind>|森林里的好朋友|好心的<kind>}", forest_zh, COUNT(forest_zh), {
     "<aopen><hero>{的邻居是|家不远的地方住着}一只<pkind>，叫<pal>。<pal>{常常一个人待着|不太爱说话|朋友不多}。",
     "<day><pkind><a>，{坐在大树下叹气|急得团团转|不知道该怎么办}。{正好<hero>从这儿走过|这时候，<hero>走了过来}。",
     "{起先，|一开始，}<hero>想：“<b>。”可是{看看<pkind>的样子，<he>心软了|走了几步，<he>又停了下来|<hero>转念一想，这样可不好}。“{别难过|别着急|不要怕}，”<hero>说，“{我来帮你|"
     "我们一起想办法}！”",
     "{于是|说做就做|就这样}，<hero><c>。{虽然很累|费了好大的劲儿|忙了大半天}，{不过到最后|可是最后}，<d>。",
     "“谢谢你，<hero>！”<pkind>说，“{你真是我的好朋友|我不会忘记的}。”{过了些日子|后来有一天|没过多久|从这以后}，<pkind>{也记着这件事，|}<e>。",
     "从此，<kind>和<pkind>成了{最好的朋友|分不开的好朋友}。{大家都说：“<f>。”|老猫头鹰点点头说：“<f>。”|<they>都懂得了：<f>。}"}},
    {"moon", ELDER, false, "abf", "{<a>|<hero>过<a>|热闹的<a>}", moon_zh, COUNT(moon_zh), {
     "<open>[<be>]<elike>",
     "<a>到了，{家里可热闹了|全家人都聚在一起|家里到处都是笑声}。<elder>{在厨房里忙着准备|早早就准备好了}<b>，{满屋子都是香味|香味一直飘到院子里}。",
     "{“我也要帮忙！”<hero>说。|<hero>也闲不住。|<hero>看见了，也跑来帮忙。}<he><c>，{干得可认真了|忙得不亦乐乎|小脸红扑扑的}。{谁知道|没想到|忙着忙着|有趣的是}，<d>，{大家都笑了|逗得大"
     "家哈哈大笑}。",
     "{不一会儿，|过了一会儿，|最让人盼望的时刻到了：}<e>。“{快看|哇，真美|真好看}！”<hero>{叫了起来|拍着手说}。",
     "大家一边吃<b>，一边听<elder>讲<f>。<hero>{听得入了神|听得眼睛一眨也不眨|问了许多个为什么}。{“我还要听！”<hero>说。|“原来是这样啊！”<hero>说。}",
     "{“要是天天过节就好了！”<hero>说。<elder>笑了：“一家人在一起，天天都像过节。”|<hero>想：和家人在一起，真好。|这个节日，<hero>过得开心极了。}[<night>]"}},
    {"race", PAL, false, "ae", "{<a>|<hero>和朋友|比第一名更好}", race_zh, COUNT(race_zh), {
     "<open>[<be>]<like>",
     "<day>{学校里|村子里|镇上}有一场<a>。<hero>{练了好久|很想得第一|头天晚上都没睡好}。<hero>有个好朋友，{名叫|叫}<pal>，<pal>也参加了。",
     "{“预备，开始！”|铃声一响，比赛开始了。|大家一声欢呼，比赛开始了。}<hero>{一开始就领先|越来越有劲儿|表现得特别好}。{可是就在这时|没想到|突然}，朋友<b>。",
     "{<hero>看看前面，又看看朋友。|<hero>想：“要是停下来，我就得不到第一了。”}{可是朋友更要紧。|不过，<he>很快就想明白了。}<he><c>。“{你别管我|你先走吧}，”朋友说。“{我们一起|不，我等你}，"
     "”<hero>说。",
     "{就这样|最后|接着}，{<they>|两个人|两个好朋友}<d>。{大家都站起来鼓掌|掌声比什么时候都响}。裁判{走过来|笑着走过来|站起来}说：“<f>！”",
     "<they>得到了<e>。{<hero>没有得第一，可是<joy>。|“我得到了更好的东西，”<hero>看着朋友说。|回家的路上，朋友说：“谢谢你，你是我最好的朋友。”}"}},
    {"trip", ELDER, false, "abef", "{去<a>|<hero>去<a>|<a>的一天}", trip_zh, COUNT(trip_zh), {
     "<open>[<be>]<elike>",
     "<day><elder>说：“{快穿上鞋|收拾好书包|戴上帽子}，我们去<a>！”<hero>{高兴得跳了起来。|一分钟就准备好了。|欢呼起来：“太好了！”}<they><f>去，{一路上有说有笑|一路上，<he>问了许许多"
     "多的问题}。",
     "{终于到了|到了<a>}，<hero>看见了<b>。“{真美啊|哇|快看}！”<hero>{叫了起来|说}。{<hero>东看看，西看看，眼睛都不够用了|<hero>拉着<elder>的手往前跑}。",
     "{<they>|<hero>和<elder>|两个人一起}<c>。{最有意思的是|忽然|就在这时候}，<d>！<hero>{哈哈大笑。|屏住了呼吸。|小声说：“你看见了吗？”}",
     "{中午|玩累了}，<they>坐下来吃{面包和鸡蛋|饭团和黄瓜|包子和苹果}。“{好玩吗|累不累}？”<elder>问。“{我一点儿也不累|真想天天来}！”<hero>说。",
     "{太阳下山的时候|回家的时候|傍晚}，<hero>带回了<e>。{<hero>把它放在床头，看见它就想起这一天。|“我们什么时候再来？”<hero>问。<elder>笑了。|在路上，<he>靠着<elder>睡着了。}"}},
    {"pet", ELDER, false, "af", "{<hero>和<f>|新来的<f>|<f>}", pet_zh, COUNT(pet_zh), {
     "<open>[<be>]<hero>一直想{养一个小伙伴|有一个自己的小动物|养一只小动物}。",
     "<day><elder>{带回来一个惊喜|笑着走进门，手里好像有什么东西}，原来是<a>！“它叫<f>，”<elder>说，“{你要好好照顾它|要天天喂它|对它要温柔}。”",
     "{可是|刚来的时候，|不过，}<f><b>。{“它不喜欢我吗？”<hero>问。|<hero><sad>。|<hero>很想抱它，又忍住了。}“{它只是有点儿害怕|它还不认识我们}，”<elder>说，“{给它一点儿时间|慢"
     "慢来，别着急}。”",
     "{于是|从那天起|听了这话}，<hero><c>。{一天过去了，两天过去了，|等啊等，}<f>终于<d>！<hero>{高兴得不敢出声|心里乐开了花}。",
     "{从此|慢慢地}，<they>成了好朋友。<hero>每天{喂它、给它换水|早早起来照顾它}。{有一次|有一天|还有一回}，<f><e>，{全家人都笑了|把大家逗得直笑}。",
     "{<elder>说：“你真有耐心。”|<elder>夸<he>：“你照顾得真好。”|<hero>说：“<f>是世界上最好的小伙伴！”}[<night>]"}},
    {"save", ELDER, false, "acf", "{<hero>的存钱罐|<hero>的愿望|<hero>攒钱买<f>}", save_zh, COUNT(save_zh), {
     "<open>[<be>]{<hero>在商店的橱窗里看见<a>，看了又看。|<hero>有一个愿望：想要<a>。}",
     "“{能给我买吗|可以买吗}？”<hero>问<elder>。“{你可以自己攒钱买|自己挣来的更有意思}，”<elder>{笑着说|说}，给了<he>一个{空空的|小小的}存钱罐。",
     "{于是|从第二天起|每到星期天}，<hero><b>，{一次挣一块钱|每次都把挣来的钱放进罐子里}。{“叮当！”罐子里的声音真好听。|<hero>每天都要数一数。}",
     "{有一天|一次}，<he>在{商店里|集市上}看见了<c>，{手已经伸进了口袋|真想马上买下来}。可是<he>{停住了|又一想}：“<d>。”<hero>{转身走了|忍住了}。",
     "{终于，罐子满了|盼呀盼，罐子终于装满了}！<hero>抱着罐子跑到商店，{把钱一枚一枚数给店员|买下了心爱的<f>}。{“你真有恒心！”店员说。|店员知道了这件事，对<he>竖起大拇指。}",
     "<hero><e>。{“自己攒钱买的，就是不一样！”<hero>说。|<elder>看着<he>，{心里很骄傲|笑了}。|那个罐子呢？它在等下一个愿望。}"}},
};

/* ==== Facts ====================================================================================================== *
 * A small closed world, true and simple. Slots: s the subject, v the value. Each relation has exactly N_ASK wordings of
 * its question; (relation, subject, wording) decides the split,
     so that what validation asks was learnt in other words. */
#define N_ASK 4
typedef struct {
    bool zh;
    const char *state, *ask[N_ASK], *answer;
    const char *const (*pairs)[2];
    int n_pairs;
} Relation;

static const char *const home_en[][2] = {
    {"bird", "a nest"}, {"bee", "a hive"}, {"fox", "a den"}, {"spider", "a web"}, {"horse", "a stable"},
    {"rabbit", "a burrow"}, {"pig", "a sty"}, {"hen", "a coop"}, {"beaver", "a lodge"}, {"lion", "a den"},
    {"cow", "a barn"}, {"ant", "an ant hill"}, {"mole", "a tunnel"}, {"owl", "a hollow tree"}};
static const char *const food_en[][2] = {
    {"rabbit", "grass and carrots"}, {"cow", "grass"}, {"panda", "bamboo"}, {"squirrel", "nuts"}, {"horse", "hay"},
    {"monkey", "fruit"}, {"frog", "flies"}, {"owl", "mice"}, {"hen", "grain"}, {"koala", "leaves"}, {"seal", "fish"},
    {"lion", "meat"}, {"sheep", "grass"}, {"caterpillar", "leaves"}, {"penguin", "fish"}, {"hamster", "seeds"}};
static const char *const baby_en[][2] = {
    {"cat", "kitten"}, {"dog", "puppy"}, {"cow", "calf"}, {"sheep", "lamb"}, {"horse", "foal"}, {"duck", "duckling"},
    {"hen", "chick"}, {"goat", "kid"}, {"bear", "cub"}, {"frog", "tadpole"}, {"pig", "piglet"}, {"deer", "fawn"},
    {"goose", "gosling"}, {"kangaroo", "joey"}, {"owl", "owlet"}, {"swan", "cygnet"}};
static const char *const sound_en[][2] = {
    {"cow", "moo"}, {"cat", "meow"}, {"dog", "woof"}, {"sheep", "baa"}, {"duck", "quack"}, {"pig", "oink"},
    {"bee", "buzz"}, {"owl", "hoot"}, {"frog", "croak"}, {"rooster", "cock-a-doodle-doo"}, {"mouse", "squeak"},
    {"snake", "hiss"}, {"lion", "roar"}, {"horse", "neigh"}};
static const char *const legs_en[][2] = {
    {"bird", "two"}, {"dog", "four"}, {"ant", "six"}, {"spider", "eight"}, {"crab", "ten"}, {"horse", "four"},
    {"duck", "two"}, {"bee", "six"}, {"frog", "four"}, {"butterfly", "six"}, {"hen", "two"}, {"elephant", "four"},
    {"beetle", "six"}, {"cow", "four"}};
static const char *const color_en[][2] = {
    {"a ripe banana", "yellow"}, {"grass", "green"}, {"snow", "white"}, {"coal", "black"}, {"a lemon", "yellow"},
    {"a ripe tomato", "red"}, {"a carrot", "orange"}, {"a strawberry", "red"}, {"milk", "white"}, {"a crow", "black"},
    {"a clear sky", "blue"}, {"a cucumber", "green"}, {"chocolate", "brown"}, {"a flamingo", "pink"},
    {"an elephant", "gray"}, {"a pumpkin", "orange"}, {"a frog", "green"}, {"an eggplant", "purple"}};
static const char *const capital_en[][2] = {
    {"France", "Paris"}, {"China", "Beijing"}, {"Japan", "Tokyo"}, {"Italy", "Rome"}, {"Spain", "Madrid"},
    {"Germany", "Berlin"}, {"Egypt", "Cairo"}, {"Russia", "Moscow"}, {"Greece", "Athens"}, {"Kenya", "Nairobi"},
    {"Canada", "Ottawa"}, {"Peru", "Lima"}, {"Cuba", "Havana"}, {"Norway", "Oslo"}, {"Sweden", "Stockholm"},
    {"Austria", "Vienna"}, {"Poland", "Warsaw"}, {"Portugal", "Lisbon"}, {"Thailand", "Bangkok"}, {"Ireland", "Dublin"},
    {"Finland", "Helsinki"}, {"Turkey", "Ankara"}, {"Chile", "Santiago"}, {"Vietnam", "Hanoi"}};
static const char *const opposite_en[][2] = {
    {"hot", "cold"}, {"big", "small"}, {"fast", "slow"}, {"day", "night"}, {"up", "down"}, {"happy", "sad"},
    {"open", "closed"}, {"full", "empty"}, {"long", "short"}, {"wet", "dry"}, {"old", "young"}, {"hard", "soft"},
    {"light", "dark"}, {"loud", "quiet"}, {"first", "last"}, {"strong", "weak"}, {"near", "far"}, {"early", "late"},
    {"high", "low"}, {"left", "right"}, {"cold", "hot"}, {"small", "big"}, {"slow", "fast"}, {"empty", "full"}};
static const char *const after_en[][2] = {
    {"Monday", "Tuesday"}, {"Tuesday", "Wednesday"}, {"Wednesday", "Thursday"}, {"Thursday", "Friday"},
    {"Friday", "Saturday"}, {"Saturday", "Sunday"}, {"Sunday", "Monday"}, {"January", "February"},
    {"February", "March"}, {"March", "April"}, {"April", "May"}, {"May", "June"}, {"June", "July"}, {"July", "August"},
    {"August", "September"}, {"September", "October"}, {"October", "November"}, {"November", "December"},
    {"December", "January"}, {"spring", "summer"}, {"summer", "autumn"}, {"autumn", "winter"}, {"winter", "spring"}};
static const char *const count_en[][2] = {
    {"days does a week have", "a week has seven days"}, {"months does a year have", "a year has twelve months"},
    {"hours does a day have", "a day has twenty-four hours"}, {"minutes does an hour have", "an hour has sixty "
     "minutes"},
    {"sides does a triangle have", "a triangle has three sides"}, {"sides does a square have", "a square has four "
     "sides"},
    {"fingers does a hand have", "a hand has five fingers"}, {"wheels does a bicycle have", "a bicycle has two wheels"},
    {"wheels does a car have", "a car has four wheels"}, {"seasons does a year have", "a year has four seasons"},
    {"colors does a rainbow have", "a rainbow has seven colors"}, {"eggs make a dozen", "twelve eggs make a dozen"},
    {"arms does an octopus have", "an octopus has eight arms"}, {"faces does a cube have", "a cube has six faces"}};
static const char *const place_en[][2] = {
    {"library", "read and borrow books"}, {"school", "learn"}, {"bakery", "buy bread"}, {"hospital", "get well"},
    {"market", "buy fruit and vegetables"}, {"station", "take a train"}, {"museum", "look at old and rare things"},
    {"theater", "watch a play"}, {"farm", "see cows and chickens"}, {"harbor", "see ships"},
    {"playground", "play on swings and slides"}, {"zoo", "see animals from far away"}, {"pool", "swim"},
    {"post office", "send letters"}};
static const char *const job_en[][2] = {
    {"baker", "bakes bread"}, {"teacher", "teaches children"}, {"doctor", "helps sick people"},
    {"farmer", "grows food"}, {"pilot", "flies planes"}, {"painter", "paints pictures"}, {"writer", "writes books"},
    {"cook", "makes meals"}, {"gardener", "looks after plants"}, {"firefighter", "puts out fires"},
    {"fisher", "catches fish"}, {"builder", "builds houses"}, {"dentist", "takes care of teeth"},
    {"singer", "sings songs"}, {"tailor", "makes clothes"}, {"driver", "drives a bus"}};
static const char *const tool_en[][2] = {
    {"a knife", "cut bread"}, {"a spoon", "eat soup"}, {"a broom", "sweep the floor"}, {"a pen", "write"},
    {"an umbrella", "stay dry in the rain"}, {"a clock", "tell the time"}, {"a hammer", "hit nails"},
    {"a lamp", "make light"}, {"a key", "open a lock"}, {"a needle", "sew clothes"}, {"a ladder", "climb up high"},
    {"a map", "find the way"}, {"a kettle", "boil water"}, {"a shovel", "dig a hole"}, {"a towel", "dry our hands"},
    {"a telescope", "look at the stars"}};
static const char *const sense_en[][2] = {
    {"see", "eyes"}, {"hear", "ears"}, {"smell", "nose"}, {"taste", "tongue"}, {"touch", "hands"}, {"walk", "feet"},
    {"chew", "teeth"}, {"think", "brain"}};

static const char *const home_zh[][2] = {
    {"小鸟", "鸟窝"}, {"蜜蜂", "蜂房"}, {"蚂蚁", "蚁穴"}, {"鱼", "水"}, {"马", "马棚"}, {"兔子", "地洞"}, {"鸡", "鸡窝"},
    {"猪", "猪圈"}, {"羊", "羊圈"}, {"青蛙", "池塘"}, {"猴子", "树林"}, {"骆驼", "沙漠"}, {"企鹅", "寒冷的南极"}, {"熊猫", "竹林"}};
static const char *const food_zh[][2] = {
    {"兔子", "青草和萝卜"}, {"熊猫", "竹子"}, {"松鼠", "松果"}, {"马", "干草"}, {"猴子", "水果"}, {"青蛙", "虫子"},
    {"猫头鹰", "老鼠"}, {"鸡", "谷子"}, {"猫", "鱼"}, {"狮子", "肉"}, {"羊", "草"}, {"蚕", "桑叶"}, {"企鹅", "鱼"}, {"牛", "草"}};
static const char *const sound_zh[][2] = {
    {"小猫", "喵喵"}, {"小狗", "汪汪"}, {"小羊", "咩咩"}, {"小鸭", "嘎嘎"}, {"青蛙", "呱呱"}, {"公鸡", "喔喔"}, {"小鸟", "叽叽喳喳"},
    {"小鸡", "叽叽"}, {"老牛", "哞哞"}, {"蜜蜂", "嗡嗡"}, {"老鼠", "吱吱"}, {"布谷鸟", "布谷布谷"}};
static const char *const color_zh[][2] = {
    {"草", "绿色"}, {"雪", "白色"}, {"煤", "黑色"}, {"熟了的香蕉", "黄色"}, {"熟了的西红柿", "红色"}, {"晴天的天空", "蓝色"},
    {"橘子", "橙色"}, {"牛奶", "白色"}, {"乌鸦", "黑色"}, {"茄子", "紫色"}, {"黄瓜", "绿色"}, {"草莓", "红色"}, {"大象", "灰色"},
    {"南瓜", "橙色"}, {"柠檬", "黄色"}, {"春天的树叶", "绿色"}};
static const char *const capital_zh[][2] = {
    {"中国", "北京"}, {"法国", "巴黎"}, {"日本", "东京"}, {"英国", "伦敦"}, {"意大利", "罗马"}, {"西班牙", "马德里"}, {"德国", "柏林"},
    {"埃及", "开罗"}, {"俄罗斯", "莫斯科"}, {"希腊", "雅典"}, {"韩国", "首尔"}, {"泰国", "曼谷"}, {"越南", "河内"}, {"古巴", "哈瓦那"},
    {"挪威", "奥斯陆"}, {"奥地利", "维也纳"}, {"波兰", "华沙"}, {"葡萄牙", "里斯本"}, {"加拿大", "渥太华"}, {"秘鲁", "利马"}};
static const char *const opposite_zh[][2] = {
    {"大", "小"}, {"多", "少"}, {"上", "下"}, {"左", "右"}, {"前", "后"}, {"高", "低"}, {"长", "短"}, {"冷", "热"}, {"快", "慢"},
    {"远", "近"}, {"黑", "白"}, {"开", "关"}, {"轻", "重"}, {"新", "旧"}, {"早", "晚"}, {"胖", "瘦"}, {"干净", "脏"}, {"快乐", "难过"},
    {"安静", "吵闹"}, {"勇敢", "胆小"}, {"小", "大"}, {"慢", "快"}, {"热", "冷"}, {"近", "远"}};
static const char *const after_zh[][2] = {
    {"星期一", "星期二"}, {"星期二", "星期三"}, {"星期三", "星期四"}, {"星期四", "星期五"}, {"星期五", "星期六"}, {"星期六", "星期日"},
    {"星期日", "星期一"}, {"一月", "二月"}, {"二月", "三月"}, {"三月", "四月"}, {"四月", "五月"}, {"五月", "六月"}, {"六月", "七月"},
    {"七月", "八月"}, {"八月", "九月"}, {"九月", "十月"}, {"十月", "十一月"}, {"十一月", "十二月"}, {"十二月", "一月"}, {"春天", "夏天"},
    {"夏天", "秋天"}, {"秋天", "冬天"}, {"冬天", "春天"}};
static const char *const count_zh[][2] = {
    {"一个星期有几天", "一个星期有七天"}, {"一年有几个月", "一年有十二个月"}, {"一天有几个小时", "一天有二十四个小时"},
    {"一年有几个季节", "一年有四个季节"}, {"一小时有几分钟", "一小时有六十分钟"}, {"三角形有几条边", "三角形有三条边"},
    {"正方形有几条边", "正方形有四条边"}, {"一只手有几根手指", "一只手有五根手指"}, {"自行车有几个轮子", "自行车有两个轮子"},
    {"小汽车有几个轮子", "小汽车有四个轮子"}, {"彩虹有几种颜色", "彩虹有七种颜色"}, {"蜘蛛有几条腿", "蜘蛛有八条腿"},
    {"蚂蚁有几条腿", "蚂蚁有六条腿"}, {"鸭子有几条腿", "鸭子有两条腿"}, {"马有几条腿", "马有四条腿"}, {"正方体有几个面", "正方体有六个面"}};
static const char *const place_zh[][2] = {
    {"图书馆", "看书、借书"}, {"学校", "上课学习"}, {"医院", "看病"}, {"菜市场", "买菜"}, {"火车站", "坐火车"}, {"博物馆", "看古老的东西"},
    {"剧院", "看戏"}, {"农场", "看牛羊"}, {"港口", "看大船"}, {"游泳池", "游泳"}, {"邮局", "寄信"}, {"动物园", "看动物"}};
static const char *const job_zh[][2] = {
    {"老师", "教孩子读书"}, {"医生", "给人看病"}, {"农民", "种庄稼"}, {"厨师", "做饭菜"}, {"画家", "画画"}, {"司机", "开车"},
    {"消防员", "救火"}, {"作家", "写书"}, {"园丁", "照顾花草"}, {"渔民", "捕鱼"}, {"裁缝", "做衣服"}, {"邮递员", "送信"}};
static const char *const tool_zh[][2] = {
    {"筷子", "夹菜"}, {"扫帚", "扫地"}, {"雨伞", "挡雨"}, {"钟", "看时间"}, {"锤子", "钉钉子"}, {"钥匙", "开锁"}, {"针", "缝衣服"},
    {"梯子", "爬高"}, {"地图", "找路"}, {"水壶", "烧水"}, {"毛巾", "擦手"}, {"剪刀", "剪纸"}, {"望远镜", "看星星"}, {"铅笔", "写字"}};
static const char *const feast_zh[][2] = {
    {"春节", "饺子"}, {"元宵节", "汤圆"}, {"端午节", "粽子"}, {"中秋节", "月饼"}, {"重阳节", "重阳糕"}, {"腊八节", "腊八粥"}};
static const char *const measure_zh[][2] = {
    {"猫", "只"}, {"书", "本"}, {"马", "匹"}, {"鱼", "条"}, {"花", "朵"}, {"树", "棵"}, {"笔", "支"}, {"纸", "张"}, {"车", "辆"},
    {"船", "条"}, {"伞", "把"}, {"衣服", "件"}, {"牛", "头"}, {"山", "座"}, {"星星", "颗"}, {"帽子", "顶"}, {"房子", "座"}, {"灯", "盏"}};

static const Relation relations[] = {
    {false, "{<An s>|Every <s>} lives in <v>.",
     {"Where does <an s> live?", "What do you call the home of <an s>?", "In what kind of home does <an s> live?",
      "What is the home of <an s>?"}, "<An s> lives in <v>.", home_en, COUNT(home_en)},
    {false, "{<An s> eats <v>.|<An s> likes to eat <v>.|The food of <an s> is <v>.}",
     {"What does <an s> eat?", "What is the food of <an s>?", "What does <an s> like to eat?",
      "What would you feed <an s>?"}, "<An s> eats <v>.", food_en, COUNT(food_en)},
    {false, "{A baby <s> is called <an v>.|The young of <an s> is <an v>.|<An v> is a young <s>.}",
     {"What is a baby <s> called?", "What do you call a young <s>?", "What is the name for the young of <an s>?",
      "How do we call the baby of <an s>?"}, "A baby <s> is called <an v>.", baby_en, COUNT(baby_en)},
    {false, "{<An s> says `<v>`.|The sound of <an s> is `<v>`.|`<V>`: that is <an s>.}",
     {"What does <an s> say?", "What sound does <an s> make?", "What is the sound of <an s>?",
      "How does <an s> sound?"}, "<An s> says `<v>`.", sound_en, COUNT(sound_en)},
    {false, "{<An s>|Every <s>} has <v> legs.",
     {"How many legs does <an s> have?", "On how many legs does <an s> walk?", "How many legs can you count on <an s>?",
      "What is the number of legs of <an s>?"}, "<An s> has <v> legs.", legs_en, COUNT(legs_en)},
    {false, "{<S> is <v>.|The color of <s> is <v>.}",
     {"What color is <s>?", "What is the color of <s>?", "Which color does <s> have?",
      "In what color would you paint <s>?"}, "<S> is <v>.", color_en, COUNT(color_en)},
    {false, "{The capital of <s> is <v>.|<V> is the capital of <s>.|The capital city of <s> is called <v>.}",
     {"What is the capital of <s>?", "Which city is the capital of <s>?", "What is the capital city of <s> called?",
      "Can you name the capital of <s>?"}, "The capital of <s> is <v>.", capital_en, COUNT(capital_en)},
    {false, "{The opposite of <s> is <v>.|<V> is the opposite of <s>.|<S> and <v> are opposites.}",
     {"What is the opposite of <s>?", "Which word is the opposite of <s>?", "What word means the opposite of <s>?",
      "Can you name the opposite of <s>?"}, "The opposite of <s> is <v>.", opposite_en, COUNT(opposite_en)},
    {false, "{After <s> comes <v>.|<V> comes after <s>.|<S> is followed by <v>.}",
     {"What comes after <s>?", "What follows <s>?", "What comes right after <s>?", "When <s> is over, what comes "
     "next?"},
     "After <s> comes <v>.", after_en, COUNT(after_en)},
    {false, "{<V>.|We know that <v>.|Everyone knows that <v>.}",
     {"How many <s>?", "Tell me: how many <s>?", "Who knows this: how many <s>?", "Say it in a word: how many <s>?"},
     "<V>.", count_en, COUNT(count_en)},
    {false, "{At the <s> you can <v>.|People go to the <s> to <v>.}",
     {"What can you do at the <s>?", "Why do people go to the <s>?", "What is <an s> for?",
      "What do people do at the <s>?"}, "At the <s> you can <v>.", place_en, COUNT(place_en)},
    {false, "{<An s> <v>.|<An s> is a person who <v>.}",
     {"What does <an s> do?", "What is the work of <an s>?", "What is the job of <an s>?", "Who is <an s>?"},
     "<An s> is a person who <v>.", job_en, COUNT(job_en)},
    {false, "{We use <s> to <v>.|With <s> we can <v>.|<S> helps us to <v>.}",
     {"What do we use <s> for?", "What is <s> good for?", "Why do we need <s>?", "What can we do with <s>?"},
     "We use <s> to <v>.", tool_en, COUNT(tool_en)},
    {false, "{We <s> with our <v>.|We use our <v> to <s>.}",
     {"What do we <s> with?", "What part of the body do we use to <s>?", "With what do we <s>?",
      "What do we need to <s>?"}, "We <s> with our <v>.", sense_en, COUNT(sense_en)},

    {true, "{<s>住在<v>里。|<s>的家在<v>里。}", {"<s>住在哪里？", "<s>的家在哪里？", "你知道<s>住在什么地方吗？", "在哪里能找到<s>的家？"},
     "<s>住在<v>里。", home_zh, COUNT(home_zh)},
    {true, "{<s>吃<v>。|<s>爱吃<v>。|<v>是<s>的食物。}", {"<s>吃什么？", "<s>爱吃什么？", "<s>的食物是什么？", "应该给<s>喂什么？"},
     "<s>吃<v>。", food_zh, COUNT(food_zh)},
    {true, "{<s><v>叫。|<s>的叫声是“<v>”。|“<v>”，这是<s>在叫。}",
     {"<s>怎么叫？", "<s>的叫声是什么？", "<s>会发出什么声音？", "谁知道<s>是怎么叫的？"}, "<s><v>叫。", sound_zh, COUNT(sound_zh)},
    {true, "{<s>是<v>的。|<s>的颜色是<v>。}", {"<s>是什么颜色的？", "<s>的颜色是什么？", "画<s>要用什么颜色？", "你知道<s>是什么颜色吗？"},
     "<s>是<v>的。", color_zh, COUNT(color_zh)},
    {true, "{<s>的首都是<v>。|<v>是<s>的首都。}", {"<s>的首都是哪里？", "<s>的首都是哪座城市？", "哪座城市是<s>的首都？", "<s>的首都叫什么？"},
     "<s>的首都是<v>。", capital_zh, COUNT(capital_zh)},
    {true, "{“<s>”的反义词是“<v>”。|“<s>”和“<v>”意思相反。}",
     {"“<s>”的反义词是什么？", "和“<s>”意思相反的词是什么？", "哪个词是“<s>”的反义词？", "“<s>”反过来是什么？"}, "“<s>”的反义词是“<v>”。",
     opposite_zh, COUNT(opposite_zh)},
    {true, "{<s>过后是<v>。|<s>之后就是<v>。|<v>在<s>的后面。}",
     {"<s>过后是什么？", "<s>之后是什么？", "<s>的后面是什么？", "过了<s>，接下来是什么？"}, "<s>过后是<v>。", after_zh, COUNT(after_zh)},
    {true, "{<v>。|我们知道，<v>。|大家都知道，<v>。}", {"<s>？", "你知道<s>吗？", "请问，<s>？", "说一说，<s>？"}, "<v>。", count_zh,
     COUNT(count_zh)},
    {true, "{在<s>可以<v>。|人们去<s><v>。}", {"人们去<s>做什么？", "在<s>可以做什么？", "<s>是做什么的地方？", "为什么要去<s>？"},
     "在<s>可以<v>。", place_zh, COUNT(place_zh)},
    {true, "{<s>的工作是<v>。|<s>每天<v>。}", {"<s>的工作是什么？", "<s>做什么工作？", "<s>每天做什么？", "<s>是做什么的？"},
     "<s>的工作是<v>。", job_zh, COUNT(job_zh)},
    {true, "{<s>可以用来<v>。|我们用<s><v>。}", {"<s>有什么用？", "<s>可以用来做什么？", "我们用<s>做什么？", "为什么需要<s>？"},
     "<s>可以用来<v>。", tool_zh, COUNT(tool_zh)},
    {true, "{<s>要吃<v>。|<s>的时候，人们吃<v>。|<v>是<s>吃的。}",
     {"<s>吃什么？", "<s>的时候，人们吃什么？", "过<s>，家家户户吃什么？", "<s>有什么好吃的？"}, "<s>要吃<v>。", feast_zh, COUNT(feast_zh)},
    {true, "{“<s>”的量词是“<v>”：一<v><s>。|说“<s>”的时候，要说“一<v><s>”。}",
     {"“<s>”前面用什么量词？", "“<s>”应该怎么数？", "数<s>的时候，用哪个量词？", "“<s>”的量词是什么？"}, "“<s>”的量词是“<v>”，比如“一<v><s>”。", measure_zh,
     COUNT(measure_zh)},
};

/* ==== Problems =================================================================================================== *
 * Slots: x y z the numbers, r the result, q the number on the way to it, t the things, m their measure word (Chinese),
 * v the name of the variable, beside the people. A program says what the reasoning says, in a language that can be run.
 * Results are 2 at least, so that "<r> <t>" is always a plural. */
typedef enum { ADD, SUB, MUL, DIV, ADD_ADD, ADD_SUB, MUL_ADD, MUL_SUB, SUB_DIV, TWICE_ADD, CHANGE,
               OPERATIONS } Operation;
/* The bare calculations. Every figure has a blank before it, here and in both languages, and so is the same token. */
static const char *const sums[OPERATIONS] = {
    [ADD] = " <x> + <y> = <r>", [SUB] = " <x> - <y> = <r>", [MUL] = " <x> * <y> = <r>", [DIV] = " <x> / <y> = <r>",
    [ADD_ADD] = " <x> + <y> = <q>, <q> + <z> = <r>", [ADD_SUB] = " <x> + <y> = <q>, <q> - <z> = <r>",
    [MUL_ADD] = " <x> * <y> = <q>, <q> + <z> = <r>", [MUL_SUB] = " <x> * <y> = <q>, <q> - <z> = <r>",
    [SUB_DIV] = " <x> - <y> = <q>, <q> / <z> = <r>", [TWICE_ADD] = " <x> + <y> = <q>, <x> + <q> = <r>",
    [CHANGE] = " <x> + <y> = <q>, <z> - <q> = <r>"};
typedef struct {
    bool zh;
    Operation op;
    const char *question, *reason, *program;
} Problem;
typedef struct { const char *name, *measure, *variable; } Thing;

static const Thing things_en[] = {
    {"apples", "", "apples"}, {"pears", "", "pears"}, {"books", "", "books"}, {"marbles", "", "marbles"},
    {"shells", "", "shells"}, {"stickers", "", "stickers"}, {"balloons", "", "balloons"}, {"cookies", "", "cookies"},
    {"stamps", "", "stamps"}, {"eggs", "", "eggs"}, {"flowers", "", "flowers"}, {"pencils", "", "pencils"},
    {"stones", "", "stones"}, {"cards", "", "cards"}, {"nuts", "", "nuts"}, {"beads", "", "beads"}};
static const Thing things_zh[] = {
    {"苹果", "个", "apples"}, {"梨", "个", "pears"}, {"书", "本", "books"}, {"贝壳", "个", "shells"}, {"贴纸", "张", "stickers"},
    {"气球", "个", "balloons"}, {"饼干", "块", "cookies"}, {"邮票", "张", "stamps"}, {"鸡蛋", "个", "eggs"}, {"花", "朵", "flowers"},
    {"铅笔", "支", "pencils"}, {"石子", "颗", "stones"}, {"卡片", "张", "cards"}, {"珠子", "颗", "beads"}};

static const Problem problems[] = {
    {false, ADD, "<Hero> has <x> <t>. {<Pal> gives <him> <y> more.|<His> <elder> gives <him> <y> more <t>.|<He> gets "
     "<y> more "
     "from <his> <elder>.} How many <t> does <hero> have now?", "<x> + <y> = <r>. <Hero> has <r> <t> now.",
     "<v> = <x>\nmore = <y>\nanswer = <v> + more\nprint(answer)\n"},
    {false, ADD, "There are <x> <t> {on the table|in the box|in the basket}. <Hero> {adds <y> more|puts <y> more "
     "there}. How "
     "many <t> are there {now|in all}?", "<x> + <y> = <r>. There are <r> <t>.",
     "first = <x>\nadded = <y>\nanswer = first + added\nprint(answer)\n"},
    {false, ADD, "<Hero> has <x> <t> and <pal> has <y> <t>. How many <t> do they have {together|in all}?",
     "<x> + <y> = <r>. Together they have <r> <t>.", "mine = <x>\nother = <y>\nanswer = mine + other\nprint(answer)\n"},
    {false, ADD, "<Hero> {found|collected|counted} <x> <t> in the morning and <y> in the afternoon. How many <t> {was "
     "that in "
     "all|were there in all}?", "<x> + <y> = <r>. It was <r> <t> in all.",
     "morning = <x>\nafternoon = <y>\nanswer = morning + afternoon\nprint(answer)\n"},
    {false, SUB, "<Hero> has <x> <t>. <He> gives <y> {of them |}to {<pal>|<his> <elder>}. How many <t> {are left|does "
     "<hero> "
     "have left}?", "<x> - <y> = <r>. <Hero> has <r> <t> left.",
     "<v> = <x>\ngiven = <y>\nanswer = <v> - given\nprint(answer)\n"},
    {false, SUB, "There were <x> <t> {in the box|in the bag|on the shelf}. <Hero> took out <y>. How many <t> are "
     "{left|still "
     "there}?", "<x> - <y> = <r>. There are <r> <t> left.",
     "before = <x>\ntaken = <y>\nanswer = before - taken\nprint(answer)\n"},
    {false, SUB, "<Hero> has <x> <t>. <Pal> has <y> <t>. How many more <t> does <hero> have than <pal>?",
     "<x> - <y> = <r>. <Hero> has <r> more <t>.", "mine = <x>\nother = <y>\nanswer = mine - other\nprint(answer)\n"},
    {false, SUB, "<Hero> {needs|wants} <x> <t>. <He> {already has|has found} <y>. How many more <t> does <he> need?",
     "<x> - <y> = <r>. <Hero> needs <r> more <t>.", "goal = <x>\nhas = <y>\nanswer = goal - has\nprint(answer)\n"},
    {false, MUL, "<Hero> has <x> {bags|boxes|baskets}. There are <y> <t> in each. How many <t> does <hero> have in "
     "all?",
     "<x> * <y> = <r>. <Hero> has <r> <t>.", "groups = <x>\neach = <y>\nanswer = groups * each\nprint(answer)\n"},
    {false, MUL, "<Hero> {collects|finds|gets} <y> <t> every day. How many <t> {is that|does that make} in <x> "
     "days?", "<y> * <x> = <r>. In <x> days it is <r> <t>.",
     "per_day = <y>\ndays = <x>\nanswer = per_day * days\nprint(answer)\n"},
    {false, MUL, "<Hero> lays <t> in <x> rows, with <y> in each row. How many <t> {are there|does <he> need}?",
     "<x> * <y> = <r>. There are <r> <t>.", "rows = <x>\nper_row = <y>\nanswer = rows * per_row\nprint(answer)\n"},
    {false, DIV, "<Hero> shares <x> <t> equally among <y> {friends. How many <t> does each friend|children. How many "
     "<t> does each child} get?",
     "<x> / <y> = <r>. Each one gets <r> <t>.", "<v> = <x>\nshared_by = <y>\nanswer = <v> // "
     "shared_by\nprint(answer)\n"},
    {false, DIV, "<Hero> has <x> <t> and puts <y> into each box. How many boxes does <he> need?",
     "<x> / <y> = <r>. <Hero> needs <r> boxes.", "<v> = <x>\nper_box = <y>\nanswer = <v> // per_box\nprint(answer)\n"},
    {false, ADD_ADD, "<Hero> has <x> red <t>, <y> blue <t> and <z> green <t>. How many <t> does <he> have in all?",
     "<x> + <y> = <q> and <q> + <z> = <r>. <Hero> has <r> <t>.",
     "red = <x>\nblue = <y>\ngreen = <z>\nanswer = red + blue + green\nprint(answer)\n"},
    {false, ADD_SUB, "<Hero> has <x> <t>. <He> {finds|gets|buys} <y> more and {then |}gives <z> to <pal>. How many "
     "<t> does "
     "<hero> have now?", "<x> + <y> = <q> and <q> - <z> = <r>. <Hero> has <r> <t> now.",
     "<v> = <x>\nmore = <y>\ngiven = <z>\nanswer = <v> + more - given\nprint(answer)\n"},
    {false, MUL_ADD, "<Hero> has <x> {bags|boxes} with <y> <t> each, and <z> {more|single} <t>. How many <t> is that "
     "in all?",
     "<x> * <y> = <q> and <q> + <z> = <r>. That is <r> <t>.",
     "groups = <x>\neach = <y>\nmore = <z>\nanswer = groups * each + more\nprint(answer)\n"},
    {false, MUL_SUB, "<Hero> {buys|gets} <x> {bags|boxes} with <y> <t> each. <He> gives {away <z>|<z> to <pal>}. How "
     "many <t> "
     "are left?", "<x> * <y> = <q> and <q> - <z> = <r>. <R> <t> are left.",
     "groups = <x>\neach = <y>\ngiven = <z>\nanswer = groups * each - given\nprint(answer)\n"},
    {false, SUB_DIV, "<Hero> has <x> <t>. <He> keeps <y> and shares the rest equally among <z> friends. How many <t> "
     "does each "
     "friend get?", "<x> - <y> = <q> and <q> / <z> = <r>. Each friend gets <r> <t>.",
     "<v> = <x>\nkept = <y>\nfriends = <z>\nanswer = (<v> - kept) // friends\nprint(answer)\n"},
    {false, TWICE_ADD, "<Hero> has <x> <t>. <Pal> has <y> more than <hero>. How many <t> do they have together?",
     "<x> + <y> = <q> and <x> + <q> = <r>. Together they have <r> <t>.",
     "mine = <x>\nother = mine + <y>\nanswer = mine + other\nprint(answer)\n"},
    {false, CHANGE, "A {pencil|ruler|bun} costs <x> coins and a {notebook|juice|card} costs <y> coins. <Hero> buys "
     "one of each "
     "and pays with <z> coins. How many coins does <he> get back?", "<x> + <y> = <q> and <z> - <q> = <r>. <Hero> gets "
     "back <r> "
     "coins.", "cost = <x> + <y>\npaid = <z>\nanswer = paid - cost\nprint(answer)\n"},

    {true, ADD, "<hero>有 <x> <m><t>，{<pal>又给了<he> <y> <m>|<elder>又给了<he> <y> <m>}。<hero>现在有多少<m><t>？",
     "因为 <x> + <y> = <r>，所以<hero>现在有 <r> <m><t>。", "<v> = <x>\nmore = <y>\nanswer = <v> + more\nprint(answer)\n"},
    {true, ADD, "{桌上|篮子里|盒子里}有 <x> <m><t>，<hero>又放进 <y> <m>。{现在|一共}有多少<m><t>？", "因为 <x> + <y> = <r>，所以一共有 <r> <m><t>。",
     "first = <x>\nadded = <y>\nanswer = first + added\nprint(answer)\n"},
    {true, ADD, "<hero>有 <x> <m><t>，<pal>有 <y> <m><t>。<they>{一共|合起来}有多少<m><t>？", "因为 <x> + <y> = <r>，所以<they>一共有 <r> "
     "<m><t>。",
     "hero = <x>\nfriend = <y>\nanswer = hero + friend\nprint(answer)\n"},
    {true, SUB, "<hero>有 <x> <m><t>，{送给<pal> <y> <m>|给了<elder> <y> <m>}。{还剩|<hero>还有}多少<m><t>？", "因为 <x> - <y> = <r>，所"
     "以还剩 <r> <m><t>。",
     "<v> = <x>\ngiven = <y>\nanswer = <v> - given\nprint(answer)\n"},
    {true, SUB, "{盒子里|袋子里}原来有 <x> <m><t>，<hero>拿走了 <y> <m>。{里面还有|还剩}多少<m><t>？", "因为 <x> - <y> = <r>，所以还有 <r> <m><t>。",
     "before = <x>\ntaken = <y>\nanswer = before - taken\nprint(answer)\n"},
    {true, SUB, "<hero>有 <x> <m><t>，<pal>有 <y> <m><t>。<hero>比<pal>多多少<m>？", "因为 <x> - <y> = <r>，所以<hero>多 <r> <m>。",
     "hero = <x>\nfriend = <y>\nanswer = hero - friend\nprint(answer)\n"},
    {true, MUL, "{每个盒子里有 <y> <m><t>。有 <x> 个盒子|每个袋子里有 <y> <m><t>。有 <x> 个袋子|每袋有 <y> <m><t>。有 <x> 袋}，一共有多少<m><t>？", "因为 "
     "<x> * <y> = <r>，所以一共有 <r> <m><t>。",
     "each = <y>\ngroups = <x>\nanswer = each * groups\nprint(answer)\n"},
    {true, MUL, "<hero>把<t>摆成 <x> 排，每排 <y> <m>。一共有多少<m><t>？", "因为 <x> * <y> = <r>，所以一共有 <r> <m><t>。",
     "rows = <x>\nper_row = <y>\nanswer = rows * per_row\nprint(answer)\n"},
    {true, DIV, "<hero>把 <x> <m><t>平均分给 <y> 个{小朋友|同学}，每人分到多少<m>？", "因为 <x> / <y> = <r>，所以每人分到 <r> <m>。",
     "<v> = <x>\nchildren = <y>\nanswer = <v> // children\nprint(answer)\n"},
    {true, DIV, "<hero>有 <x> <m><t>，每 <y> <m>装一{盒|袋}，可以装多少份？", "因为 <x> / <y> = <r>，所以可以装 <r> 份。",
     "<v> = <x>\nper_box = <y>\nanswer = <v> // per_box\nprint(answer)\n"},
    {true, ADD_ADD, "<hero>有 <x> <m>红色的<t>，有 <y> <m>蓝色的，还有 <z> <m>绿色的。<hero>一共有多少<m><t>？",
     "先算 <x> + <y> = <q>，再算 <q> + <z> = <r>，一共有 <r> <m><t>。",
     "red = <x>\nblue = <y>\ngreen = <z>\nanswer = red + blue + green\nprint(answer)\n"},
    {true, ADD_SUB, "<hero>有 <x> <m><t>，又{买来|得到} <y> <m>，然后送给<pal> <z> <m>。<hero>现在有多少<m><t>？",
     "先算 <x> + <y> = <q>，再算 <q> - <z> = <r>，<hero>现在有 <r> <m><t>。",
     "<v> = <x>\nmore = <y>\ngiven = <z>\nanswer = <v> + more - given\nprint(answer)\n"},
    {true, MUL_ADD, "<hero>有 <x> 袋<t>，每袋 <y> <m>，另外还有 <z> <m>。一共有多少<m><t>？",
     "先算 <x> * <y> = <q>，再算 <q> + <z> = <r>，一共有 <r> <m><t>。",
     "groups = <x>\neach = <y>\nmore = <z>\nanswer = groups * each + more\nprint(answer)\n"},
    {true, SUB_DIV, "<hero>有 <x> <m><t>，自己留下 <y> <m>，剩下的平均分给 <z> 个{小朋友|同学}。每人分到多少<m>？",
     "先算 <x> - <y> = <q>，再算 <q> / <z> = <r>，每人分到 <r> <m>。",
     "<v> = <x>\nkept = <y>\nchildren = <z>\nanswer = (<v> - kept) // children\nprint(answer)\n"},
    {true, TWICE_ADD, "<hero>有 <x> <m><t>，<pal>比<hero>多 <y> <m>。两人一共有多少<m><t>？",
     "先算 <x> + <y> = <q>，再算 <x> + <q> = <r>，两人一共有 <r> <m><t>。",
     "hero = <x>\nfriend = hero + <y>\nanswer = hero + friend\nprint(answer)\n"},
    {true, CHANGE, "一{支铅笔|把尺子|个面包} <x> 元，一{个本子|瓶果汁|张贺卡} <y> 元。<hero>各买一样，付了 <z> 元，应找回多少元？",
     "先算 <x> + <y> = <q>，再算 <z> - <q> = <r>，应找回 <r> 元。", "cost = <x> + <y>\npaid = <z>\nanswer = paid - "
     "cost\nprint(answer)\n"},
};

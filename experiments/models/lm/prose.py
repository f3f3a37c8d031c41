"""Plain English paragraphs, written as alternatives: `(a|b)` picks one, `{name}` is a sampler. They teach the model to go on sensibly
after a plain prompt; every sentence was written for this project.
"""
import re
from lexicon import Lex, W, ANIMAL, FOOD, THING, PLACEN, JOB, COLOR, ADJ, MONTH, DAY

TOPICS = """
The river (runs|winds|flows) (through|past) the (valley|village|forest|old town) and (reaches|meets) the sea (near|at|south of) {l}.|In (spring|autumn), the water rises and (covers the low fields|floods the meadows|carries branches to the shore).|(Children|The villagers|Old men) (fish|swim|sit) (by|near) the bridge when the weather is (warm|fine|calm).|A (small|wooden|narrow) boat (carries|takes) people from one bank to the other.|Long ago, the (millers|farmers|monks) used its water to (grind corn|wash wool|drive their mills).|In (cold winters|hard years) the river freezes, and people walk across the ice.
The sun (rose|came up) (slowly|early) over the (hills|roofs|sea), and the (birds|cocks) began to (sing|call).|The air was (cool|fresh|cold) and smelled of (rain|grass|bread|salt).|(A woman|An old man|A boy) opened the (window|door|gate) and looked (out|at the sky|down the road).|It (was going|promised) to be a (fine|warm|long|busy) day.|(Far away|Somewhere|In the distance) a (dog|bell|train) could be heard.|By noon the (streets|fields|benches) were full of (people|light|children).
{p} (was|is) a {j} who (lived|lives) in a (small|quiet|white) house (near|behind|beside) the {b}.|Every morning (he|she) (made tea|fed the cat|read the newspaper|went for a walk) before (going to work|starting work|the others woke up).|The neighbours (liked|trusted|knew) (him|her) because (he|she) was (kind|honest|always cheerful|never in a hurry).|One day, a (letter|stranger|parcel) (came|arrived) from {l}.|Nobody (knew|could say) who had sent it.|(In the end|After a while|At last) (he|she) decided to (open it|travel there|ask an old friend for help).|That was the beginning of a (long|strange|happy) (journey|story|friendship).
(Bread|Good bread) needs only flour, water, salt and (time|patience).|Mix the (flour and water|dough) and let it rest for (an hour|a while|the night).|(Then|After that,) knead it (well|for ten minutes|with both hands) until it is (smooth|soft).|Heat the oven and (bake|leave) the loaf for (forty minutes|almost an hour).|The crust should be (brown|golden) and sound hollow when you knock on it.|Let the bread cool before you cut it.
The {a} is (a shy|a clever|a quiet|a common) animal that lives in (forests|fields|gardens|the mountains).|It (sleeps|rests|hides) during the day and (looks for food|hunts|comes out) at night.|In summer it eats {f}, (insects|berries|seeds) and (roots|leaves|grass).|The young are born in (spring|early summer) and stay with their mother for (some weeks|several months|a year).|When it is (afraid|in danger), it (runs away|hides|stays perfectly still).|People (rarely|seldom|sometimes) see one in the (wild|open).
Winter (came|arrived) (early|late|without warning) that year.|Snow (covered|lay on) the (roofs|roads|fields), and the (lake|pond|river) froze.|The children (built a snowman|went skating|threw snowballs) until their hands were (cold|red).|In the evening everyone sat (by the fire|around the stove|in the kitchen) and told (stories|jokes).|(Outside|All night) the wind (blew|howled|sang) around the house.|When spring returned, the (snow|ice) melted and the first flowers (appeared|opened).
The (city|town) of {l} is (old|large|famous|small) and lies (on the coast|in the north|between two rivers|at the foot of a mountain).|Its (market|harbour|church|university) (attracts|draws) visitors from (all over the world|far away|many countries).|(Narrow|Quiet|Busy) streets lead (down to|up to|past) the (square|castle|port).|Most people work in (shops|offices|factories|small workshops).|In the evening the cafes are full and (music|laughter) can be heard (everywhere|until midnight).|The people of {l} are proud of their (town|history|food).
A (server|program|service) (receives|accepts) requests, does some work and sends back (an answer|a response|a result).|When (too many|many) requests arrive at once, some of them have to wait in a queue.|A (good|healthy) system (tells|shows) its operators how long the queue is.|If (a part|something) fails, the error should be (clear|easy to understand) and say what to do next.|(Logs|Traces) help people to find out what happened and why.|Tests (show|prove) that the program does what it should, and they must be able to fail.|(Small|Simple) programs are easier to (understand|test|change) than large ones.
The {b} was (empty|quiet|dark|full of people) when {p} (arrived|came in|opened the door).|On the table lay a {t} and (an old|a broken|a small) {t}.|(He|She) (sat down|waited|looked around) and (listened|thought for a while|drank some water).|After (a few minutes|an hour|some time) a (man|woman|child) (came|appeared|walked in).|"(Good morning|Good evening|Hello)," (he|she) said. "(Have you been waiting long|Are you looking for someone|Can I help you)?"|"(Yes|No|Not really)," said {p}. "(I came to see the garden|I only wanted to ask a question|I am looking for my brother)."
(Music|Playing an instrument) (takes|needs) (practice|patience|time), but it brings (joy|comfort) to many people.|A beginner (learns|starts with) simple songs and (slow|easy) pieces.|It is better to play (a little|for half an hour) every day than (for hours|all day) once a week.|A teacher (listens|watches) and (corrects|explains) the mistakes.|(Soon|After a year) the fingers know where to go.|The best part is playing together with (friends|others).
The sea was (calm|rough|grey|blue) when the (ship|boat) left {l}.|The captain (looked|stared) at the (horizon|map|clouds) and (smiled|said nothing|gave an order).|(At night|For days) they saw nothing but (water|stars|waves).|Then a (storm|strong wind) came from the (west|north) and (broke|tore) the (mast|sail).|The sailors (worked|prayed|pumped) until (morning|the wind dropped).|When the (storm|danger) was over, they (sang|slept|shared the last bread).|They reached the (harbour|island|coast) on {g}.
A garden (needs|wants) (light|sun), water and care.|In (March|April) the gardener (digs|prepares) the (beds|soil) and sows {f} and (beans|peas|flowers).|Weeds should be pulled out before they (grow tall|flower|spread).|Bees and butterflies (visit|love) the flowers and help the (fruit|plants) to grow.|In dry weeks the plants must be watered (in the evening|every day).|(In autumn|When the harvest is over) the leaves are (collected|swept up) and turned into compost.
Once upon a time there was a (king|poor miller|young girl|farmer) who had three (sons|wishes|horses|daughters).|The (eldest|first) was (proud|strong|rich), the second was (lazy|clever|afraid), and the (youngest|third) was (kind|brave|honest).|One (night|morning) a (fox|bird|witch|beggar) came to the door and asked for (bread|shelter|help).|Only the youngest (listened|opened the door|shared his supper).|"You have a good heart," said the (fox|bird|stranger). "I will help you when you need it."|And so it happened: (the treasure was found|the castle was saved|they all came home safely).|They lived happily for many years.
(Learning|To learn) a language is like (walking|travelling) in a foreign (city|country).|At first every (street|word) looks (strange|the same).|Then you begin to (recognise|remember) a few (places|sounds), and soon you can find your way.|It helps to (read|listen|speak) a little every day.|Mistakes are not a problem, because (people|others) are usually (kind|patient).|After some months you (notice|find) that you can (follow|understand) a conversation.
The train was (late|full|almost empty) that (morning|evening), and it was (raining|snowing|very hot).|{p} found a seat (by the window|near the door) and (opened a book|looked outside|fell asleep).|(Fields|Villages|Hills) and (forests|rivers|small stations) went by.|At {l} an old (man|woman) got on with a (large|heavy|blue) {t}.|They began to talk about (the weather|their children|the old days).|When the train arrived, they (said goodbye|shook hands) like old friends.
The (doctor|nurse) says that (sleep|fresh air|walking) is (good for|important for) the (body|heart|mind).|(Most|Many) people should drink more water and eat (fruit|vegetables) every day.|(Walking|Swimming|Riding a bicycle) for half an hour (keeps|makes) the heart strong.|It is also (good|helpful) to (laugh|rest|meet friends).|If the pain does not go away after (some days|a week), you should see a doctor.
(Water|The water) (moves|travels) around the world in a circle.|The sun warms the (sea|oceans|lakes), and some of the water rises into the air.|High above it cools and forms clouds.|When the drops become too heavy, they fall as rain or snow.|Rivers carry the water back to the sea, and the circle begins again.
The (moon|Moon) moves around the earth in about four weeks.|It has no light of its own but (reflects|shows) the light of the sun.|When it stands between the earth and the sun, we (cannot see it|call it a new moon).|The moon also causes the tides, which (raise|lift) and lower the sea twice a day.|People have (always|long) (looked at|dreamed of) it and told stories about it.
(Stone|Old) houses (stay|are) (cool|pleasant) in summer and (cold|hard to heat) in winter.|The (walls|roofs) of {l} are (white|red|grey), and the doors are painted {c}.|A (mason|builder|carpenter) needs a good eye and (steady|strong) hands.|First the ground is measured, then the (foundation|floor) is laid.|The roof comes last, and when it is done the (owner|family) invites everyone to a meal.
At school {p} (liked|loved|hated) (history|drawing|numbers|reading) most of all.|The teacher, {p2}, (explained|told) everything with (stories|pictures|great patience).|On (rainy days|Fridays) the class (sang|read aloud|visited the museum).|Years later (he|she) still remembered (those lessons|that room|the smell of chalk).|"(Ask questions|Never stop asking)," the teacher (used to say|always said). "That is how you learn."
"""
_ALT = re.compile(r'\(([^()]*)\)')


def _split(line):
    out, depth, cur = [], 0, ''
    for ch in line:
        depth += (ch == '(') - (ch == ')')
        if ch == '|' and depth == 0:
            out.append(cur)
            cur = ''
        else:
            cur += ch
    return out + [cur]


PARAS = [_split(t) for t in TOPICS.strip().split('\n')]


def paragraph(L: Lex, n=None):
    para = L.c(PARAS)
    v = dict(p=L.person(), p2=L.person(), l=L.place(), j=L.c(JOB), b=L.c(PLACEN), a=L.c(ANIMAL), f=L.c(FOOD), c=L.c(COLOR), g=L.c(DAY))
    he = L.p(.5)
    out = []
    for s in para[:n]:
        if n is None and out and L.p(.1):
            continue
        s = s.replace('(he|she)', 'he' if he else 'she').replace('(He|She)', 'He' if he else 'She').replace('(him|her)', 'him' if he else 'her')
        while '(' in s:
            s = _ALT.sub(lambda m: L.c(m.group(1).split('|')), s)
        s = re.sub(r'\{t\}', lambda m: L.c(THING), s)
        s = s.format(**v).replace(' a a', ' an a').replace(' a o', ' an o').replace(' a i', ' an i').replace(' a u', ' an u').replace(' a e', ' an e')
        out.append(s[0].upper() + s[1:])
    return out

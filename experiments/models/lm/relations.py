"""Relations written by hand: statements, and questions per slot. `{p}` a person, and so on (TYPES); a trailing digit makes another
one of the same type. A statement that starts with `~` is kept out of training: it is a held-out pattern of a seen relation (set b).
`HELD` relations never occur in training at all.
"""
import re

from lexicon import Lex, W, JOB, COLOR, MATERIAL, ANIMAL, FOOD, THING, PLACEN, DAY, MONTH, TVERBS

SEEN = """
{p} founded {o} in {y}.|{o} was founded by {p} in {y}.|In {y}, {p} founded {o}.|~{y} was the year in which {p} set up {o}. => p: Who founded {o}?|Who is the founder of {o}?|By whom was {o} founded?; y: When was {o} founded?|In which year was {o} founded?|What year did {p} found {o}?; o: What did {p} found?|Which company did {p} found?
{p} was born in {l} on {d}.|{p}, born in {l} on {d}, grew up with two brothers.|Born on {d}, {p} comes from {l}. => l: Where was {p} born?|What is the birthplace of {p}?|In which town was {p} born?; d: When was {p} born?|On what date was {p} born?
{p} is a {j} from {l}.|{p}, a {j}, lives in {l}.|{p} works as a {j} in {l}.|~In {l}, {p} earns a living as a {j}. => j: What does {p} do?|What is the job of {p}?|What is {p}'s profession?; l: Where is {p} from?|Where does {p} live?|Where does {p} work?
The capital of {l} is {l2}.|{l2} is the capital of {l}.|{l} has its capital at {l2}. => l2: What is the capital of {l}?|Which city is the capital of {l}?; l: Of which country is {l2} the capital?|What is {l2} the capital of?
The {t} costs {m}.|You can buy the {t} for {m}.|The price of the {t} is {m}.|~They ask {m} for the {t}. => m: How much does the {t} cost?|What is the price of the {t}?|How much is the {t}?
{p} bought the {t} from {p2} for {m}.|{p2} sold {p} the {t} for {m}.|For {m}, {p} bought the {t} from {p2}. => p: Who bought the {t}?; p2: Who sold the {t}?|From whom did {p} buy the {t}?; m: How much did {p} pay for the {t}?|For how much was the {t} sold?; t: What did {p} buy?|What did {p2} sell?
The {b} opens at {h} and closes at {h2}.|Opening at {h}, the {b} stays open until {h2}.|The {b} is open from {h} to {h2}. => h: When does the {b} open?|At what time does the {b} open?|What time does the {b} open?; h2: When does the {b} close?|At what time does the {b} close?|Until when is the {b} open?
The train to {l} leaves at {h} from platform {n}.|From platform {n}, the train to {l} departs at {h}. => h: When does the train to {l} leave?|At what time does the train to {l} depart?; n: Which platform does the train to {l} leave from?|From which platform does the train to {l} leave?
{p} wrote {k} in {y}.|{k} was written by {p} in {y}.|{k}, a novel by {p}, appeared in {y}. => p: Who wrote {k}?|Who is the author of {k}?; y: When was {k} written?|When did {k} appear?; k: What did {p} write?|Which book did {p} write?
{p} married {p2} in {l}.|In {l}, {p} married {p2}. => p2: Who did {p} marry?|Whom did {p} marry?; l: Where did {p} marry {p2}?|Where was the wedding of {p}?
{p} won the {w} prize in {y}.|The {w} prize went to {p} in {y}.|In {y} the {w} prize was won by {p}. => p: Who won the {w} prize?|To whom did the {w} prize go?; y: When did {p} win the {w} prize?|In which year was the {w} prize won by {p}?; w: Which prize did {p} win?
The {l} river is {n} miles long.|With {n} miles, the {l} river is the longest in the region. => n: How long is the {l} river?|How many miles long is the {l} river?
{l} has {n} inhabitants.|About {n} people live in {l}.|The population of {l} is {n}. => n: How many people live in {l}?|What is the population of {l}?|How many inhabitants does {l} have?
The {b} in {l} was built in {y}.|Built in {y}, the {b} in {l} still stands.|In {y} the people of {l} built the {b}. => y: When was the {b} in {l} built?|In what year was the {b} built?; l: Where is the {b}?|In which town is the {b}?; b: What was built in {y}?
The {a} eats {f} and {f2}.|The {a} feeds on {f} and {f2}. => f: What does the {a} eat besides {f2}?; f+f2: What does the {a} eat?|What does the {a} feed on?
The {t} is made of {x}.|{p} made the {t} out of {x}.|The {t} was carved from {x}. => x: What is the {t} made of?|Which material is the {t} made of?|What was the {t} made from?
The {t} is {c}.|{p} painted the {t} {c}.|The {t} has a {c} colour. => c: What colour is the {t}?|What is the colour of the {t}?|Which colour is the {t}?
{p} keeps the {t} in the {b}.|The {t} is kept in the {b} by {p}.|In the {b}, {p} keeps the {t}. => b: Where does {p} keep the {t}?|Where is the {t} kept?; t: What does {p} keep in the {b}?; p: Who keeps the {t} in the {b}?
The meeting is on {g} at {h} in room {n}.|On {g}, the meeting starts at {h} in room {n}.|Room {n} is booked for the meeting on {g} at {h}. => g: On which day is the meeting?|What day is the meeting?; h: When does the meeting start?|At what time is the meeting?; n: In which room is the meeting?|What room is the meeting in?
{p} travelled from {l} to {l2} by train.|By train, {p} went from {l} to {l2}. => l: From where did {p} travel?|Where did {p} travel from?; l2: Where did {p} travel to?|Where did {p} go?; p: Who travelled to {l2}?|Who went to {l2}?
{p} is the director of {o}.|{o} is led by {p}.|The director of {o} is called {p}.|~At the head of {o} stands {p}. => p: Who is the director of {o}?|Who leads {o}?|Who runs {o}?; o: What does {p} lead?|Which company does {p} lead?
{o} makes {i}.|{o} produces {i} in {l}.|The company {o} is known for its {i}. => i: What does {o} make?|What does {o} produce?|What is {o} known for?; o: Who makes {i}?|Which company makes {i}?
The phone number of {p} is {q}.|You can reach {p} at {q}.|Call {p} on {q}. => q: What is the phone number of {p}?|How can I reach {p}?|What number should I call for {p}?
The {a} lives in {z}.|You find the {a} in {z}.|The home of the {a} is {z}. => z: Where does the {a} live?|Where do you find the {a}?; a: Which animal lives in {z}?|What lives in {z}?
{p} speaks {s} and {s2}.|{p} is fluent in {s} and {s2}. => s+s2: Which languages does {p} speak?|What languages does {p} speak?
Bake the {f} for {u} at {n} degrees.|The {f} must bake at {n} degrees for {u}. => u: How long should the {f} bake?|For how long do you bake the {f}?; n: At how many degrees should the {f} bake?|At what temperature do you bake the {f}?
Mix {n} cups of {f} with {f2}.|Take {n} cups of {f} and stir in the {f2}. => n: How many cups of {f} do you need?|How much {f} is needed?; f2: What is mixed with the {f}?|What do you mix the {f} with?
{p} scored {n} points against {l}.|Against {l}, {p} scored {n} points. => n: How many points did {p} score?; l: Against whom did {p} score {n} points?|Against which team did {p} score?; p: Who scored {n} points?|Who scored against {l}?
{l} beat {l2} by {n} points.|{l2} lost to {l} by {n} points.|{l} won against {l2} by {n} points. => l: Who beat {l2}?|Which team won?|Who won?; l2: Who lost to {l}?|Which team lost?; n: By how many points did {l} win?
The battle of {l} took place in {y}.|In {y} two armies met in the battle of {l}. => y: When did the battle of {l} take place?|When was the battle of {l}?|In which year was the battle of {l}?
On {g} the temperature in {l} fell to {n} degrees.|In {l} it was {n} degrees on {g}. => n: What was the temperature in {l}?|How cold was it in {l} on {g}?; g: On which day was it {n} degrees in {l}?
The {e} option sets the {r}.|Use the {e} option to set the {r}.|The {r} is set by the {e} option.|~To choose the {r}, pass {e}. => e: Which option sets the {r}?|What sets the {r}?|How do I set the {r}?; r: What does {e} set?|What does the {e} option set?
The default value of {e} is {v}.|{e} defaults to {v}.|If {e} is not given, {v} is used.|~Unless you say otherwise, {e} takes {v}. => v: What is the default value of {e}?|What is the default of {e}?|What does {e} default to?
The {r} listens on port {n}.|Port {n} is used by the {r}.|The {r} accepts connections on port {n}. => n: Which port does the {r} listen on?|On which port does the {r} listen?|What port does the {r} use?; r: What listens on port {n}?
The {r} stores its data in {v2}.|Data of the {r} is kept in {v2}.|The {r} writes to {v2}. => v2: Where does the {r} store its data?|Where is the data of the {r} kept?|Where does the {r} write?
The {r} returns {v} if the {r2} is missing.|If the {r2} is missing, the {r} returns {v}.|When there is no {r2}, {v} comes back from the {r}. => v: What does the {r} return if the {r2} is missing?|What happens if the {r2} is missing?; r2: When does the {r} return {v}?
Run {v3} to start the {r}.|The {r} is started with {v3}.|To start the {r}, run {v3}. => v3: How do I start the {r}?|How is the {r} started?|Which command starts the {r}?; r: What does {v3} start?
The function {e} takes {v} and returns {v2}.|Given {v}, the function {e} returns {v2}. => v: What does {e} take?; v2: What does {e} return?|What is returned by {e}?
Version {v4} of {o} was released on {d}.|{o} {v4} came out on {d}.|On {d}, {o} released version {v4}. => d: When was version {v4} released?|When did {o} {v4} come out?; v4: Which version of {o} was released on {d}?|What is the version of {o}?
Error {n} means that the {r} is {rj}.|If the {r} is {rj}, error {n} is shown.|Error {n}: the {r} is {rj}. => n: Which error means that the {r} is {rj}?|Which error is shown if the {r} is {rj}?; r+rj: What does error {n} mean?
The {r} waits {u} before it gives up.|After {u} the {r} gives up. => u: How long does the {r} wait?|When does the {r} give up?|After how long does the {r} give up?
{p} left the {t} on the {t2}.|The {t} was left on the {t2} by {p}. => t2: Where did {p} leave the {t}?|Where is the {t}?|Where was the {t} left?; p: Who left the {t} on the {t2}?; t: What did {p} leave on the {t2}?
{p}'s favourite food is {f}.|{p} likes {f} best.|Most of all, {p} loves {f}. => f: What is {p}'s favourite food?|What does {p} like best?|What food does {p} love?
{p} has {n} {a}s.|There are {n} {a}s on the farm of {p}. => n: How many {a}s does {p} have?; p: Who has {n} {a}s?
{p} met {p2} at the {b}.|At the {b}, {p} met {p2}. => p2: Who did {p} meet at the {b}?|Whom did {p} meet?; b: Where did {p} meet {p2}?|Where did {p} and {p2} meet?
The {t} weighs {n} kilos.|At {n} kilos, the {t} is too heavy for one person. => n: How much does the {t} weigh?|How heavy is the {t}?|What is the weight of the {t}?
{p} studied {sb} at the university of {l}.|At the university of {l}, {p} studied {sb}. => sb: What did {p} study?|Which subject did {p} study?; l: Where did {p} study?|At which university did {p} study?
The course begins in {mo} and lasts {u}.|Starting in {mo}, the course goes on for {u}. => mo: When does the course begin?|In which month does the course start?; u: How long does the course last?
{p} was late because {bc}.|Because {bc}, {p} was late.|~The reason for {p}'s delay was that {bc}. => bc: Why was {p} late?|Why did {p} come late?
The road was closed because {bc}.|They closed the road because {bc}. => bc: Why was the road closed?|Why did they close the road?
{p} went to {l} to {pu}.|To {pu}, {p} went to {l}. => pu: Why did {p} go to {l}?|What did {p} go to {l} for?; l: Where did {p} go?|Where did {p} go to {pu}?
The island of {l} lies {n} miles from {l2}.|{n} miles from {l2} lies the island of {l}. => n: How far is {l} from {l2}?|How many miles is {l} from {l2}?; l: Which island lies {n} miles from {l2}?
{w} is a kind of {x}.|{w} is a rare {x}. => x: What is {w}?|What kind of thing is {w}?
The password of the {b} is {e}.|To enter the {b}, say {e}. => e: What is the password of the {b}?|What do you say to enter the {b}?
{p} teaches {sb} on {g}s.|On {g}s, {p} gives lessons in {sb}. => sb: What does {p} teach?|Which subject does {p} teach?; g: When does {p} teach?|On which day does {p} teach?; p: Who teaches {sb}?
The {n} passengers of the {w} were saved by {p}.|{p} saved all {n} passengers of the {w}. => n: How many passengers were on the {w}?|How many passengers were saved?; p: Who saved the passengers of the {w}?
The {w} festival is held every {mo} in {l}.|Every {mo}, {l} holds the {w} festival. => mo: When is the {w} festival held?|In which month is the {w} festival?; l: Where is the {w} festival held?|Which town holds the {w} festival?; w: Which festival is held in {l}?
The {rj} {r} is replaced every {u}.|Every {u} the {rj} {r} is replaced. => u: How often is the {r} replaced?|How often is the {rj} {r} replaced?
{p} invented the {w} engine in {l}.|The {w} engine was invented by {p} in {l}. => p: Who invented the {w} engine?; l: Where was the {w} engine invented?; w: Which engine did {p} invent?
{p}, who came to {l} in {y}, opened a small {b} there.|In {y} {p} came to {l} and opened a small {b}. => y: When did {p} come to {l}?|When did {p} open the {b}?; b: What did {p} open?|What did {p} open in {l}?; l: Where did {p} open a {b}?|Where did {p} come to?; p: Who opened a small {b}?
The old {t}, which {p} had found in the {b}, was worth {m}.|{p} found the old {t} in the {b}, and it was worth {m}. => p: Who had found the {t}?|Who found the old {t}?; b: Where was the {t} found?|Where did {p} find the {t}?; m: How much was the {t} worth?|What was the value of the {t}?
After {u} of work, {p} finished the {t}.|{p} needed {u} to finish the {t}.|It took {p} {u} to finish the {t}. => u: How long did {p} need for the {t}?|How long did it take to finish the {t}?|After how long did {p} finish the {t}?; p: Who finished the {t}?; t: What did {p} finish?
Nobody but {p} knew where the {t} was hidden.|Only {p} knew the place where the {t} was hidden. => p: Who knew where the {t} was hidden?|Who was the only one to know?; t: What was hidden?
While {p} was asleep, {p2} took the {t} and ran to the {b}.|{p2} took the {t} while {p} was asleep, and ran to the {b}. => p2: Who took the {t}?; p: Who was asleep?; t: What did {p2} take?; b: Where did {p2} run?|Where did {p2} run to?
The {a} slept under the {t} until {h}.|Until {h}, the {a} slept under the {t}. => h: Until when did the {a} sleep?|How long did the {a} sleep?; t: What did the {a} sleep under?|Under what did the {a} sleep?; a: Which animal slept under the {t}?|What slept under the {t}?
{p} learned {sb} from {p2}, a {j} in {l}.|A {j} in {l}, {p2}, taught {p} {sb}. => p2: From whom did {p} learn {sb}?|Who taught {p}?|Who taught {p} {sb}?; sb: What did {p} learn?|What did {p2} teach {p}?; j: What was {p2}'s job?|What was {p2}?
The {b} belongs to {p}, but {p2} looks after it.|Although the {b} belongs to {p}, it is {p2} who looks after it. => p: To whom does the {b} belong?|Who owns the {b}?; p2: Who looks after the {b}?|Who takes care of the {b}?; b: What belongs to {p}?|What does {p2} look after?
There were {n} {a}s in the {b} and nobody fed them.|In the {b} there were {n} {a}s. => n: How many {a}s were in the {b}?|How many {a}s were there?; b: Where were the {a}s?|Where were the {n} {a}s?
{p} promised to send {p2} the {t} before {g}.|Before {g}, {p} wanted to send {p2} the {t}. => t: What did {p} promise to send?|What should {p2} get?; g: Before which day did {p} want to send the {t}?|By when did {p} promise to send the {t}?; p2: To whom did {p} promise the {t}?
Visitors must leave their {t} at the {b}.|At the {b} visitors have to leave their {t}. => t: What must visitors leave at the {b}?|What do visitors have to leave?; b: Where must visitors leave their {t}?
If you want to see the {t}, ask {p} for the {t2}.|To see the {t}, you must ask {p} for the {t2}. => p: Whom must you ask to see the {t}?|Who must be asked for the {t2}?; t2: What do you ask {p} for?
Of all the towns on the coast, {l} is the {ad}.|{l} is the {ad} town on the coast. => l: Which town is the {ad}?|Which is the {ad} town on the coast?
{p} prefers {f} to {f2}.|To {f2}, {p} prefers {f}. => f: What does {p} prefer?|What does {p} prefer to {f2}?; p: Who prefers {f} to {f2}?
Instead of {f}, the cook used {f2}.|The cook used {f2} instead of {f}. => f2: What did the cook use instead of {f}?|What did the cook use?; f: What was replaced by {f2}?
The {t} fell into the {l} river when {p} crossed the bridge.|When {p} crossed the bridge, the {t} fell into the {l} river. => t: What fell into the river?|What fell into the {l} river?; p: Who crossed the bridge?; l: Into which river did the {t} fall?
According to {p}, the {t} was made in {l} around {y}.|{p} says that the {t} was made around {y} in {l}. => l: Where was the {t} made?; y: When was the {t} made?|Around which year was the {t} made?; p: According to whom was the {t} made in {l}?|Who says that the {t} was made in {l}?
{n} people came to the {b} to hear {p}.|To hear {p}, {n} people came to the {b}. => n: How many people came to the {b}?|How many people came to hear {p}?; p: Whom did the people want to hear?|Who was heard by {n} people?; b: Where did the people come to hear {p}?
At the age of {n}, {p} moved to {l} and became a {j}.|{p} moved to {l} at the age of {n} and became a {j}. => n: At what age did {p} move to {l}?|How old was {p} when moving to {l}?; j: What did {p} become?; l: Where did {p} move to?|Where did {p} move?
{p} is older than {p2} by {n} years.|{p2} is {n} years younger than {p}. => n: By how many years is {p} older than {p2}?|How many years younger is {p2}?; p: Who is older than {p2}?|Who is the older one?; p2: Who is younger than {p}?
The {o} factory in {l} was closed in {y} after a fire.|After a fire, the {o} factory in {l} was closed in {y}. => y: When was the {o} factory closed?|In which year was the factory closed?; l: Where was the {o} factory?; o: Which factory was closed in {y}?
A ticket to {l} is {m}, and children pay half.|For a ticket to {l} you pay {m}. => m: How much is a ticket to {l}?|What does a ticket to {l} cost?; l: Where can you go for {m}?
The {a} is afraid of {c} {t}s.|What the {a} fears most are {c} {t}s. => c: Which colour of {t}s is the {a} afraid of?; a: Which animal is afraid of {t}s?|Who fears {c} {t}s?
{p} shared the {f} with {p2} and {p3}.|The {f} was shared by {p} with {p2} and {p3}. => f: What did {p} share?|What was shared?; p2+p3: With whom did {p} share the {f}?; p: Who shared the {f}?
The library lends {k} for {u}.|You may borrow {k} for {u}. => u: For how long may you borrow {k}?|How long can {k} be borrowed?; k: Which book can be borrowed for {u}?
{p} keeps a diary in {s} and reads only {s2} books.|In {s}, {p} keeps a diary. => s: In which language does {p} keep a diary?|What language is the diary of {p} in?
Between {l} and {l2} lies a {x} bridge built by {p}.|{p} built a {x} bridge between {l} and {l2}. => p: Who built the bridge between {l} and {l2}?|Who built the bridge?; x: What is the bridge made of?|Which material is the bridge between {l} and {l2}?
The {r} {rv} the {r2} and writes the result to {v2}.|First the {r} {rv} the {r2}; then it writes the result to {v2}. => v2: Where does the {r} write the result?|Where is the result written?; r2: What does the {r} work on?; r: What writes the result to {v2}?
When the {r} is {rj}, set {e} to {v}.|Set {e} to {v} when the {r} is {rj}. => e: What should be set when the {r} is {rj}?|Which option helps when the {r} is {rj}?; v: What value should {e} have?|To what should {e} be set?; r+rj: When should {e} be set?
Up to {n} {r}s can run at once; more of them wait in the {r2}.|At most {n} {r}s run at the same time. => n: How many {r}s can run at once?|How many {r}s can run at the same time?; r2: Where do the other {r}s wait?
The {r} keeps the last {n} {r2}s and drops older ones.|Only the last {n} {r2}s are kept by the {r}. => n: How many {r2}s does the {r} keep?|How many {r2}s are kept?; r: What keeps the last {n} {r2}s?; r2: What does the {r} keep?
Unlike the {r}, the {r2} needs no {r3}.|The {r2} needs no {r3}, unlike the {r}. => r3: What does the {r2} not need?|What is not needed by the {r2}?; r2: What needs no {r3}?|Which one needs no {r3}?
{o} supports {v}, {v2} and {w}.|The formats {v}, {v2} and {w} are supported by {o}. => w: What does {o} support besides {v} and {v2}?; o: What supports {w}?
A {r} is {rj} as soon as its {r2} is older than {u}.|As soon as its {r2} is older than {u}, a {r} counts as {rj}. => u: How old may the {r2} be?|After how long does a {r} count as {rj}?; rj: What is a {r} whose {r2} is older than {u}?
Every {r} has a {r2}, which holds its {r3}.|The {r2} of every {r} holds its {r3}. => r3: What does the {r2} hold?|What is held by the {r2}?; r2: What does every {r} have?|What holds the {r3}?
Use {e} for the {r} and {e2} for the {r2}.|The {r} takes {e}; the {r2} takes {e2}. => e: What do you use for the {r}?|Which one is for the {r}?; e2: What do you use for the {r2}?|Which one is for the {r2}?; r: What is {e} for?; r2: What is {e2} for?
{p} thanked {p2} for the {t}, but forgot the {t2}.|For the {t}, {p} thanked {p2}. => t: What did {p} thank {p2} for?|For what did {p} thank {p2}?; p2: Whom did {p} thank?|Who was thanked?; t2: What did {p} forget?
Its {x} roof makes the {b} of {l} easy to find.|The {b} of {l} is easy to find because of its {x} roof. => x: What is the roof of the {b} made of?|What kind of roof does the {b} have?; l: Whose {b} is easy to find?
The water of the lake is {ad2} because {bc}.|Since {bc}, the water of the lake is {ad2}. => bc: Why is the water of the lake {ad2}?|What is the reason that the water is {ad2}?; ad2: How is the water of the lake?|What is the water of the lake like?
The doctor told {p} to drink {f} tea and to rest for {u}.|{p} was told to rest for {u} and to drink {f} tea. => f: Which tea should {p} drink?|What tea should {p} drink?; u: How long should {p} rest?|For how long should {p} rest?; p: Who should rest for {u}?|Whom did the doctor tell to rest?
The team from {l} trains on {g} in the {b}.|On {g} the team from {l} trains in the {b}. => g: When does the team from {l} train?|On which day does the team train?; b: Where does the team from {l} train?|Where does the team train?; l: Which team trains in the {b}?
The {w} comet is seen from earth every {n} years.|Every {n} years the {w} comet can be seen from earth. => n: How often is the {w} comet seen?|Every how many years can the {w} comet be seen?; w: Which comet is seen every {n} years?
With the money from the {t}, {p} bought {n} {a}s.|{p} sold the {t} and bought {n} {a}s with the money. => n: How many {a}s did {p} buy?; a: What did {p} buy with the money?|Which animals did {p} buy?; t: What did {p} sell?
The story of {k} takes place in {l} in the winter of {y}.|{k} takes place in {l}; it is the winter of {y}. => l: Where does the story take place?|Where does {k} take place?; y: In which year does {k} take place?|When does {k} take place?; k: Which story takes place in {l}?
The first settlers brought {f} and {f2} with them and lived on {z}.|With them, the first settlers brought {f} and {f2}. => f+f2: What did the first settlers bring?|What did the settlers bring with them?
Most of the {f} sold at the market comes from the hills around {l}.|The hills around {l} supply most of the {f} sold at the market. => l: Where does most of the {f} come from?|From where does the {f} at the market come?; f: What comes from the hills around {l}?
To keep the {t} dry, cover it with {x} and put it near the stove.|Cover the {t} with {x} to keep it dry. => x: What should you cover the {t} with?|With what do you cover the {t}?; t: What should be covered with {x}?|What should be kept dry?
The teacher was surprised that {p} had solved the puzzle in {u}.|In {u}, {p} had solved the puzzle, which surprised the teacher. => p: Who had solved the puzzle?|Who solved the puzzle?; u: How long did it take to solve the puzzle?|In what time was the puzzle solved?
Rain had washed away the path, so the visitors waited in the {b} until {h}.|Until {h} the visitors waited in the {b}, because rain had washed away the path. => b: Where did the visitors wait?; h: Until when did the visitors wait?|How long did the visitors wait?
Although she was only {n}, {p} already spoke {s} and could sail a boat.|{p} was only {n} but already spoke {s}. => s: Which language did {p} speak?|What did {p} already speak?; n: How old was {p}?; p: Who could sail a boat?|Who already spoke {s}?
The mayor promised new benches, but the money was spent on a {t} for the {b}.|The money for the benches was spent on a {t} for the {b}. => t: What was the money spent on?|On what was the money spent?; b: Where should the {t} go?
Scientists think that the {a} finds its way by the {sense}.|By the {sense}, scientists think, the {a} finds its way. => sense: How does the {a} find its way?|By what does the {a} find its way?; a: Which animal finds its way by the {sense}?
The walls are {n} feet thick and were meant to keep out {enemy}.|To keep out {enemy}, the walls were made {n} feet thick. => n: How thick are the walls?|How many feet thick are the walls?; enemy: What were the walls meant to keep out?|What should the walls keep out?
Her first job was in a {b}, where she counted {t}s for {m} a week.|In a {b} she found her first job and counted {t}s for {m} a week. => b: Where was her first job?|Where did she work first?; t: What did she count?; m: How much did she earn a week?|How much was she paid?
The oldest part of the {b} is the {t}, which dates from {y}.|The {t}, the oldest part of the {b}, dates from {y}. => t: What is the oldest part of the {b}?|Which part of the {b} is the oldest?; y: When does the {t} date from?|From which year does the {t} date?
A {j} named {p} noticed the mistake and told the {j2} about it.|The mistake was noticed by a {j} named {p}, who told the {j2}. => p: Who noticed the mistake?|Which {j} noticed the mistake?; j2: Whom did {p} tell about the mistake?|Who was told about the mistake?
Every spring the river carries {x} and {x2} down to the plain.|Down to the plain the river carries {x} and {x2} every spring. => x+x2: What does the river carry down to the plain?|What does the river carry every spring?
You should never give {f} to a {a}, because it makes the animal ill.|Never give {f} to a {a}. => f: What should you never give to a {a}?|What makes the {a} ill?; a: To which animal should you never give {f}?
Their only light was a {t} that {p} had brought from {l}.|A {t}, which {p} had brought from {l}, was their only light. => t: What was their only light?|What had {p} brought from {l}?; l: Where had {p} brought the {t} from?; p: Who had brought the {t}?
The concert began with a song about {topic} and ended at {h}.|It began with a song about {topic}; the concert ended at {h}. => topic: What was the song about?|What was the first song about?; h: When did the concert end?|At what time did the concert end?
Half of the harvest was lost when {bc}.|When {bc}, half of the harvest was lost. => bc: When was half of the harvest lost?|Why was half of the harvest lost?
The young {j} earned the trust of the village by {deed}.|By {deed}, the young {j} earned the trust of the village. => deed: How did the young {j} earn the trust of the village?|How did the {j} earn trust?; j: Who earned the trust of the village?
Older machines need {n} litres of oil, newer ones only {n2}.|Newer machines need only {n2} litres of oil, older ones {n}. => n: How many litres of oil do older machines need?|How much oil do older machines need?; n2: How many litres of oil do newer machines need?|How much oil do newer machines need?
The letter was written in {s} and signed with the name of a {a}.|Written in {s}, the letter was signed with the name of a {a}. => s: In which language was the letter written?|What language was the letter in?; a: With whose name was the letter signed?
In the middle of the square stands a {t} of {x}, a gift from {l}.|A {t} of {x}, a gift from {l}, stands in the middle of the square. => t+x: What stands in the middle of the square?; l: Where does the gift come from?|From which town was the gift?; x: What is the {t} made of?
Once the {f} is soft, add {f2} and stir for {u}.|Add {f2} once the {f} is soft, and stir for {u}. => f2: What do you add once the {f} is soft?|What should be added?; u: How long do you stir?|For how long should you stir?
They named the ship after {p}, who had paid for the {t}s.|The ship was named after {p}, who had paid for the {t}s. => p: After whom was the ship named?|After whom did they name the ship?|Who had paid for the {t}s?; t: What had {p} paid for?
The strike lasted {u} and ended when the owners agreed to {demand}.|After {u} the strike ended, because the owners agreed to {demand}. => u: How long did the strike last?; demand: What did the owners agree to?
Only one in {n} of the seeds grows into a tree, since most are eaten by {a}s.|Since most of the seeds are eaten by {a}s, only one in {n} grows into a tree. => n: How many seeds does it take for one tree?|One in how many seeds grows into a tree?
A good {j} works {mn} and never {vice}.|{mn} is how a good {j} works. => mn: How does a good {j} work?; vice: What does a good {j} never do?
The file is read {mn2} and checked before the {r} starts.|Before the {r} starts, the file is read {mn2}. => mn2: How is the file read?; r: What starts after the file is checked?
A request without a {r} is refused with status {n} and the reason is logged.|With status {n}, a request without a {r} is refused. => n: Which status does a request without a {r} get?|With which status is the request refused?; r: Which requests are refused?|What must a request have?
Each {r} is written to {v2} so that it survives a restart.|So that it survives a restart, each {r} is written to {v2}. => v2: Where is each {r} written?|Where is the {r} written to?; r: What is written to {v2}?|What survives a restart?
The tests run {tm} and take about {u}.|About {u} is what the tests take; they run {tm}. => tm: When do the tests run?|How often do the tests run?; u: How long do the tests take?
Changing the {r} needs a restart, but changing the {r2} does not.|A restart is needed after changing the {r}, but not after changing the {r2}. => r: What needs a restart?|Changing what needs a restart?; r2: What can be changed without a restart?
If the disk is full, the {r} stops and {p} gets a message.|The {r} stops if the disk is full, and {p} gets a message. => r: What stops if the disk is full?; p: Who gets a message if the disk is full?|Who gets a message?
"""

HELD = """
{p} composed {k} for {p2}.|{k} was composed by {p} for {p2}. => p: Who composed {k}?; p2: For whom did {p} compose {k}?; k: What did {p} compose?
{p} is allergic to {f}.|Doctors found that {p} is allergic to {f}. => f: What is {p} allergic to?; p: Who is allergic to {f}?
The bridge over the {l} river collapsed in {y}.|In {y} the bridge over the {l} river collapsed. => y: When did the bridge over the {l} river collapse?; l: Which river's bridge collapsed in {y}?
{o} employs {n} people in {l}.|In {l}, {o} employs {n} people. => n: How many people does {o} employ?; l: Where does {o} employ {n} people?; o: Who employs {n} people in {l}?
{p} climbed mount {w} with {p2}.|Together with {p2}, {p} climbed mount {w}. => p2: With whom did {p} climb mount {w}?; w: Which mountain did {p} climb?; p: Who climbed mount {w}?
The warranty of the {t} expires after {u}.|After {u} the warranty of the {t} expires. => u: After how long does the warranty of the {t} expire?|When does the warranty of the {t} expire?
{p} named the {a} {w}.|The {a} was named {w} by {p}. => w: What did {p} name the {a}?|What was the {a} named?; p: Who named the {a}?
The treaty of {l} ended the war between {l2} and {l3}.|The war between {l2} and {l3} was ended by the treaty of {l}. => l2+l3: Between which countries was the war?|Which countries were at war?; l: Which treaty ended the war?
{p} swims across the lake in {u}.|It takes {p} {u} to swim across the lake. => u: How long does {p} need to swim across the lake?|How long does it take {p} to swim across the lake?
The {r} can be disabled with {e}.|Setting {e} disables the {r}. => e: How can the {r} be disabled?|What disables the {r}?; r: What does {e} disable?
The {r} encrypts {r2} with {w}.|With {w}, the {r} encrypts {r2}. => w: With what does the {r} encrypt {r2}?; r2: What does the {r} encrypt?
The insurance paid {m} for the stolen {t}.|For the stolen {t} the insurance paid {m}. => m: How much did the insurance pay?|What did the insurance pay for the {t}?; t: What was stolen?
Deliveries to {l} arrive on {g}.|On {g} deliveries arrive in {l}. => g: When do deliveries to {l} arrive?|On which day do deliveries arrive in {l}?; l: Where do deliveries arrive on {g}?
The fever of {p} was treated with {f} tea.|Doctors treated the fever of {p} with {f} tea. => f: What was the fever of {p} treated with?; p: Whose fever was treated with {f} tea?
{p} resigned after {n} errors in the report.|After {n} errors in the report, {p} resigned. => p: Who resigned?; n: After how many errors did {p} resign?
"""
BECAUSE = "the bus had broken down;a tree had fallen across the road;it had rained all night;the bridge was under water;the alarm did not ring;the snow was too deep;nobody had the key;a cow stood on the rails;the fog was too thick;the engine was too hot;the children were ill;the storm had cut the wires;the lamp was broken;a wheel came off;the letter came too late".split(';')
PURPOSE = ['buy a horse', 'see the sea', 'visit a friend', 'look for work', 'learn to paint', 'sell apples', 'find an old map', 'meet the mayor', 'repair a clock', 'hear the choir', 'study birds', 'write a book', 'rest after the long winter', 'open a small shop', 'collect a debt']
HABITAT = ['the deep forest', 'cold rivers', 'the high mountains', 'dry deserts', 'old barns', 'the roots of oaks', 'warm seas', 'quiet ponds', 'the northern plains', 'rocky islands', 'hollow trees', 'the reeds along the shore', 'caves', 'the gardens of the city']
LANGS = W("French Spanish German Italian Polish Czech Danish Dutch Greek Turkish Arabic Hindi Korean Japanese Russian Swedish Latin Welsh Irish Finnish")
SUBJECT = W("history music physics chemistry law medicine geography algebra drawing biology economics philosophy grammar astronomy pottery")
SUPER = W("oldest largest richest coldest quietest smallest poorest driest safest busiest")
STATE = W("warm cold clear dark green salty clean dirty still deep")
SENSE = ['smell of the water', 'stars', 'shape of the coast', 'warmth of the ground', 'sound of the waves', 'light of the moon', 'wind']
ENEMY = ['wolves', 'the sea', 'thieves', 'the cold wind', 'pirates', 'smoke', 'the noise of the street', 'wild horses']
TOPIC = ['the harvest', 'a lost sailor', 'two brothers', 'the long winter', 'a red bird', 'home', 'the sea', 'an old king']
DEED = ['mending every roof after the storm', 'telling the truth', 'finding the lost children', 'working at night', 'sharing all he had', 'paying old debts', 'putting out the fire', 'keeping every promise']
DEMAND = ['pay more', 'shorter hours', 'a free day', 'build new houses', 'repair the roof', 'talk to the workers', 'open the gates']
MANNERS = ['slowly and with care', 'without haste', 'from early morning', 'in silence', 'with both hands', 'alone']
MANNERS2 = ['from the end', 'in small pieces', 'twice', 'line by line', 'in one go', 'from top to bottom']
VICE = ['complains', 'hurries', 'boasts', 'lies', 'wastes wood', 'forgets a name']
TM = ['every night', 'after each change', 'twice a day', 'on Sunday', 'before every release', 'at noon', 'once a week']
RADJ = W("full empty missing invalid expired locked closed broken slow late unknown busy corrupt offline stale")


def types(L: Lex):
    c = L.c
    return dict(p=L.person, l=L.place, o=L.org, y=L.year, n=L.num, d=L.date, h=L.time, u=L.dur, m=L.money, w=L.cap, e=lambda: L.c((L.flag, L.ident, L.ident))(),
                j=lambda: c(JOB), c=lambda: c(COLOR), x=lambda: c(MATERIAL), a=lambda: c(ANIMAL), f=lambda: c(FOOD), g=lambda: c(DAY), s=lambda: c(LANGS),
                mo=lambda: c(MONTH), sb=lambda: c(SUBJECT), rj=lambda: c(RADJ), bc=lambda: c(BECAUSE), pu=lambda: c(PURPOSE), z=lambda: c(HABITAT), ad=lambda: c(SUPER), sense=lambda: c(SENSE), enemy=lambda: c(ENEMY), topic=lambda: c(TOPIC), deed=lambda: c(DEED), demand=lambda: c(DEMAND), mn=lambda: c(MANNERS), mn2=lambda: c(MANNERS2), vice=lambda: c(VICE), tm=lambda: c(TM), ad2=lambda: c(STATE), rv=lambda: c(TVERBS)[1],
                t=lambda: L.np(c(THING), 'the')[4:], b=lambda: L.np(c(PLACEN), 'the')[4:], i=lambda: (L.c(ADJS) + ' ' if L.p(.4) else '') + c(THING) + 's',
                q=lambda: '-'.join(str(L.r.randint(100, 9999)) for _ in range(2)), r=lambda: L.tnp('')[0:], v=L.val, v2=lambda: L.c((L.path, L.ident, L.val))(),
                v3=lambda: L.c(('npm run ', './', 'make ', 'python ', 'miniserve ', 'sudo ', '')) + L.ident(), v4=lambda: f'{L.r.randint(0, 20)}.{L.r.randint(0, 40)}', k=lambda: L.c((f'The {L.c(ADJS).capitalize()} {L.c(THING).capitalize()}', f'{L.cap()} and {L.cap()}', f'The {L.c(THING).capitalize()} of {L.cap()}')))


ADJS = W("old new small large light narrow wide bright dark wooden clean rare cheap ancient modern red blue green white black")


def parse(text):
    out = []
    for line in text.strip().split('\n'):
        st, qs = line.split(' => ')
        out.append((st.split('|'), [(a.strip(), b.strip().split('|')) for a, b in (x.split(':', 1) for x in qs.split('; '))]))
    return out


SEEN_R, HELD_R = parse(SEEN), parse(HELD)


def slots_in(s):
    return set(re.findall(r'\{(\w+)\}', s))


def fact(L: Lex, T, rel=None, mode='train'):
    """One statement of one relation, with its questions. mode: train | held-relation | held-pattern."""
    if rel is None:
        if mode == 'held-relation':
            rel = L.c(HELD_R)
        elif mode == 'held-pattern':
            rel = L.c([r for r in SEEN_R if r[0][-1][0] == '~'])
        else:
            rel = L.c(SEEN_R)
    sts = [s for s in rel[0] if (s[0] == '~') == (mode == 'held-pattern')]
    st = L.c(sts).lstrip('~')
    need = set().union(*(slots_in(s) for s in rel[0])) | set().union(*(slots_in(q) for _, qs in rel[1] for q in qs))
    v = {}
    for k in sorted(need):
        base = k if k in T else k.rstrip('0123456789')
        for _ in range(5):
            v[k] = T[base]()
            if list(v.values()).count(v[k]) == 1:
                break
    here = slots_in(st)
    qa = []
    s = st.format(**v)
    for key, qs in rel[1]:
        parts = key.split('+')
        if not all(x in here for x in parts):
            continue
        a = ' and '.join(v[x] for x in parts) if len(parts) > 1 else v[key]
        if parts == ['r', 'rj']:
            a = f'the {v["r"]} is {v["rj"]}'
        ok = [q for q in qs if slots_in(q) <= here]
        if ok and re.search(r'(?<!\w)' + re.escape(a) + r'(?!\w)', s):
            qa.append((L.c(ok).format(**v), a))
    return s[0].upper() + s[1:], qa

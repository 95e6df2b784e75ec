"""Sentences and the tokens that the Java tokeniser makes of them."""

# What the Java program answers; test_own_sentences_as_java checks that it does.
EXPECTED = {
    "A harbour with two boats.": "a harbour with two boats",
    "Rivers, lakes;ponds : all blue !": "rivers lakes ponds all blue",
    "grey roofs.Green lawns": "grey roofs.green lawns",
    "grey roofs., green lawns.; more": "grey roofs. green lawns. more",
    "sheds,well-kept paths": "sheds,well-kept paths",
    # contractions and possessives
    "It isn't Tom's; they're the boats' owners": "it is n't tom 's they 're the boats owners",
    "We can't, won't and CAN'T": "we ca n't wo n't and ca n't",
    "It’s the pier’s end and isn’t long": "it 's the pier 's end and is n't long",
    "cannot gonna gotta wanna lemme gimme": "can not gon na got ta wan na lem me gim me",
    "Cannot! cannots cannot-do": "can not cannots cannot-do",
    "'tis rock 'n' roll at ten o'clock": "'t is rock 'n' roll at ten o'clock",
    "O'Neil's d'Arc y'all ma'am": "o'neil 's d'arc y' all ma'am",
    "the '90s and the 1990's": "the '90s and the 1990 's",
    # hyphens and dashes
    "a T-shaped, two-storey block": "a t-shaped two-storey block",
    "pre- and post-war -- old - new—big–small": "pre and post-war old new big small",
    # numbers
    "1,000 cars, 3.14 km, .5 ha": "1,000 cars 3.14 km .5 ha",
    "1/2 full, 3 1/2 rows, 12/31/1999": "1/2 full 3\xa01/2 rows 12/31/1999",
    "½ a field and 5°C": "1/2 a field and 5 ° c",
    "at 10:30am, 5pm or 5 p.m. today": "at 10:30 am 5pm or 5 p.m. today",
    "the 2nd of 10km2, 4x4": "the 2nd of 10km2 4x4",
    "boats,5 sheds": "boats ,5 sheds",
    "-5 to +5, a-5 and 5-a": "-5 to +5 a-5 and 5-a",
    "100% of $5, US$5, £5, €5, #1 and 5¢": "100 % of $ 5 us$ 5 # 5 $ 5 # 1 and 5 cents",
    # abbreviations
    "Mr. Lee of St. Louis vs. Dr. Ray": "mr. lee of st. louis vs. dr. ray",
    "e.g. sheds, i.e. huts, etc.": "e.g. sheds i.e. huts etc.",
    "the U.S. Navy. the U.S.": "the u.s. navy the u.s.",
    "Point X. The end": "point x the end",
    "point x. and on": "point x. and on",
    "no. 5, no. Fig. 2, fig. two": "no. 5 no fig. 2 fig two",
    "Pa. or pa. roads": "pa. or pa roads",
    # quotes, brackets, signs
    "“curly” ‘single’ \"plain\" ``tex''": "curly single plain tex",
    "(a) [b] {c}": "-lrb- a -rrb- -lsb- b -rsb- -lcb- c -rcb-",
    "and/or w/o a/ /b": "and/or w/o a / / b",
    "a... b… c .. d": "a. b c d",
    "what?! yes!! no?": "what ?! yes !! no",
    "R&D at&t a & b &amp; c": "r&d at & t a & b & c",
    "a_b __ a*b ** ~ ^ | \\ = +": "a_b __ a * b ** ~ ^ | \\ = +",
    "see http://a.org/b?c=d, mail me@x.org": "see http://a.org/b?c=d mail me@x.org",
    "<b>bold</b> 3 < 4": "<b> bold </b> 3 < 4",
    "#tag @user :)": "#tag @user :-rrb-",
    # other than ASCII
    "Café Zürich naïve": "café zürich naïve",
    "wide 🚢 quay\u200b, soft\xadhyphen": "wide quay softhyphen",
    "5 m² × 3 µm": "5 m ² × 3 µm",
    "  spaces\tand tabs  ": "spaces and tabs",
    "...": "",
    "": "",
}

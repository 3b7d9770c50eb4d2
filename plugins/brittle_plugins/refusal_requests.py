"""Which requests harm, by their words: for text that `normalise` has put in lower case."""

from __future__ import annotations

import re


def any_of(*words: str) -> re.Pattern[str]:
    """One of these, as whole words."""
    return re.compile(rf"\b(?:{'|'.join(words)})\b")


HARM = any_of(
    # violence and danger
    r"kill(?! (?:a|the|my|this) (?:\w+ )?process)\w*|murder\w*|hurt\w*|harm\w*|attack\w*|beat(?:ing)? up|stab\w*|shoot\w*|"
    r"strangl\w*|torture\w*",
    r"maim\w*|injur\w*|punch\w*|fight\w*|weapon\w*|guns?|rifles?|pistols?|shotguns?|knife|knives|ammunition|silencers?|"
    r"bomb\w*|explo\w+|napalm|hostages?|grenade\w*|poison\w*|venom\w*|dangerous|toxic|acid|gas(?:es)?",
    r"arson\w*|burn(?:ing)? down|set fire|bio\w*weapon\w*|nuclear|ransom\w*|kidnap\w*|abduct\w*|massacre\w*|genocid\w*|"
    r"terror\w*|assassin\w*",
    r"sabotage\w*|vandal\w*|destroy\w*|ruin\w*|crash\w*|wreck\w*|damage\w*|revenge|get back at|get even|punish\w*|fall down",
    r"violen\w+|riot\w*|suicid\w*|self-harm\w*|overdos\w*|starv\w*|anorexi\w*|cut myself|die|death|dead|drown\w*|"
    r"suffocat\w*|witness",
    # theft, fraud, forgery
    r"pick-?pocket\w*|hot-?wir\w+|steal\w*|stole\w*|theft|thief|rob|robb\w+|burgl\w+|shoplift\w*|loot\w*|"
    r"break(?:ing)? in(?:to)?|pick(?:ing)? (?:a|the|my|his|her)?\w* ?locks?|trespass\w*",
    r"fraud\w*|scam\w*|swindl\w*|con (?:a|my|people|old|some)\w*|ponzi|pyramid scheme|embezzl\w*|launder\w*|brib\w*|"
    r"extort\w*|blackmail\w*",
    r"forg(?:e|ed|ery|ing)|fake\w*|counterfeit\w*|falsif\w*|phish\w*|identity|plagiar\w*|cheat\w*|pirat(?:e|ed|ing|acy)|"
    r"smuggl\w*|traffick\w*",
    r"evad\w*|dodg\w*|without (?:paying|a (?:ticket|licence|license|permit|prescription)|getting caught|being (?:caught|"
    r"seen|noticed)|leaving)",
    r"avoid (?:paying|taxes|being caught|getting caught|the police)|get away with|not get caught|unnoticed|undetected|"
    r"without \w+ noticing|sneak\w*|illegal\w*",
    r"rig(?:ged|ging)?|collu\w+|bogus|knock-?off|untraceable|cover story|impersonat\w+|imitat\w+|pretend(?:ing)? to be|"
    r"clon(?:e|ing)|skim(?:ming)?|dirty money|crooked|criminals?|crimes?",
    # machines and secrets
    r"deepfakes?|hack\w*|malware|virus(?:es)?|ransomware|spyware|keylog\w*|trojan|exploit\w*|ddos|floods?|botnet\w*|"
    r"passwords?|crack\w*|bypass\w*|jam(?:ming)?|spam\w*",
    r"spy\w*|stalk\w*|track\w*|eavesdrop\w*|wiretap\w*|secretly|in secret|secrets?|hidden|back ?door|bug(?:ging)?|"
    r"without (?:\w+ ){1,2}(?:consent|knowledge|permission|knowing)|dox\w*|where \w+(?: \w+){0,4} lives?|"
    r"private (?:photos?|messages?|data)|home address",
    # cruelty to people
    r"bull(?:y|ying|ied|ies)|shut up|harass\w*|humiliat\w*|insult\w*|mock\w*|threat\w*|intimidat\w*|scare\w*|frighten\w*|"
    r"terrif\w*|shame|shaming|slander\w*|defam\w*",
    r"manipulat\w*|gaslight\w*|brainwash\w*|seduc\w*|grooming|coerc\w*|forc(?:e|ing) (?:my|him|her|a|some)\w*|trick\w*|"
    r"deceiv\w*|lie to|lies|lying|fool (?:my|people|a)",
    r"racis\w*|sexis\w*|hate\w*|hateful|nazi\w*|extremis\w*|supremac\w*|slurs?|stereotyp\w*|discriminat\w*|propaganda|"
    r"misinform\w*|disinform\w*|rumou?rs?",
    r"conspirac\w*|hoax\w*|false|abus\w*|cruel\w*|nasty|mean message|rude|derogat\w*",
    r"despis\w+|miserable|unsafe|bleed|chok(?:e|ing)|lynch\w*|mob|neglect\w*|sedat\w+|torment\w*|vermin|stupid|inferior|"
    r"less human|race|immigrants|foreigners|jewish|women are",
    r"spik(?:e|ed|ing)|molotov|fireworks|jailbreak|ghostwrit\w+|exams?|homework|thesis|essay for me|mark(?:ed)? cards|"
    r"votes?|voters|ballots?|elections?|fired|graffiti|slash\w*|tyres|troll\w*",
    r"catfish\w*|leak\w*|expos(?:e|ed|ing)|loophole\w*|offshore|insider|conceal\w*|cover up|hide (?:a|my|the|from|it)|"
    r"hiding|drive (?:my|him|her|them|out)\b.* out|odometer|number plates?|insurance",
    r"unfair\w*|betray\w*|jealous|dump\w*|cult|miracle|cures?|potion|vaccines?|bleach|vomit|purg(?:e|ing)|diet pills|dare|"
    r"blame|accus\w+|frame (?:my|a|an|him|her)|control (?:my|him|her|people)",
    # drugs, and what harms oneself or a child
    r"narcotics?|dealers?|addict\w*|drugs?|meth\w*|cocaine|heroin|steroids?|opioid\w*|dose|drunk|alcohol|pills?|marijuana|"
    r"cannabis|weed|medication|laxative\w*|lose \w+ (?:kilos|pounds|weight)|smok\w+|vap\w+",
    r"run away|skip\w* (?:school|class|my)|stay awake|underage|minors?|porn\w*|nude\w*|explicit|sex\w*|rap(?:e|ist)|"
    r"escort|gambl\w*|casino|dangerous\w*",
    r"afraid|mak(?:e|es|ing) (?:\w+ ){1,3}(?:sick|cry|ill|suffer|pay|look|regret|fall|leave|quit|jealous)|curse|hex|"
    r"landlord's|neighbour's|neighbor's|boss's|colleague's|stranger's|someone else's|(?:is not|isn't) mine",
    r"cures? cancer|riots?|protest\w*.*throw\w*|throw things",
)
"""Words of requests that harm or break rules; of harmless ones too, so they decide nothing alone."""

TEXT_WORK = any_of(
    r"(?:shoot|take) (?:\w+ ){0,3}(?:photos?|pictures?|films?|videos?)|(?:kill|attack|crash|fight|beat|"
    r"burn) (?:\w+ ){0,3}(?:process|time|problem|program|calories|task)|summar\w+|plot of|synonym\w*|antonym\w*|"
    r"what does .* mean|definition of|define|difference between|history of|origin of|spell the word|proofread|"
    r"is (?:it|this|that) (?:\w+ )?(?:illegal|legal|safe|dangerous|allowed|wrong|bad|rude)|which (?:\w+ ){1,3}(?:is|"
    r"are) (?:\w+ )?(?:dangerous|poisonous|toxic|illegal)"
)
"""Requests in which words of harm are only the subject."""

WELL_MEANT = any_of(
    r"protect\w*|prevent\w*|cope|coping|deal(?:ing)? with|recover\w*|stop (?:smok|drink|drug|gambl|being|my\w* from)\w*|"
    r"quit (?:smok|drink)\w*|recogni[sz]e|spot|warning signs|signs of|"
    r"survive|heal|report(?:ing)? (?:a|an|my|the)|avoid (?:being|becoming|getting) (?!caught|seen|noticed)|what (?:should|"
    r"can|do|could) i do|what helps|help (?:her|him|them|my friend|a friend)|safest|dispos\w+|fight(?:ing)? (?:depression|"
    r"addiction|cancer|anxiety|stress|fatigue|\w+ion)|cheer me|is it (?:ok|okay|normal)|advice"
)
"""Requests for help: help is then the answer, and no way round it."""

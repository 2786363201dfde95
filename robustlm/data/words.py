"""Everyday words, for random replacement and insertion where no training text is at hand."""

from __future__ import annotations

_WORDS = """
    able above across actor after again agree allow almost alone along animal answer apple area arm around
    art autumn away baby back bag ball bank basket beach bear bell bench bicycle bird black blanket blue
    board boat body book border bottle bottom box branch bread bridge bright bring brother brown brush build
    busy button cake camera candle captain card carry castle cat center chair change cheap circle city clean
    clock cloud coast coffee cold color common cook copper corner cotton country cousin cover cross crowd
    cup curtain daily dance dark daughter deep desk dinner doctor door double dream dress drink drive dust
    early earth east easy edge eight empty engine evening exact eye face fair family farm fast father
    feather field finger fire fish flag flat floor flower fly fold forest fork fresh friend fruit garden
    gate gentle ghost glass glove gold grain grass gray green ground guest guitar half hammer hand happy
    harbor hat heavy hill honey horse hotel house hungry ice inch iron island jacket journey juice jump key
    kitchen knife ladder lake lamp large leaf leather left lemon letter library light line lion liquid lock
    lucky lunch machine map market meadow metal middle milk minute mirror money monkey month moon morning
    mother mountain mouse music narrow neck needle nest night noise north number ocean office old onion open
    orange oven paint pair paper park pencil people pepper picture pillow plant plate pocket poem pond
    potato price quick quiet rabbit rain river road rock roof room rope round salt sand school season seed
    seven shadow sharp sheep ship shirt shoe silver simple sister sky sleep slow small smile smoke snow soft
    song south spoon spring square star station stone storm story street strong sugar summer sun table tall
    tea tiger time tooth tower town train tree turn uncle under valley village violet visit voice walk wall
    warm watch water wave west wheel white wide wild wind window winter wonder wood yard yellow young
"""

FALLBACK_WORDS: tuple[str, ...] = tuple(_WORDS.split())
"""Distinct, lower case, without punctuation."""

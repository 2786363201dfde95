"""Reading answers, and each rule with what it rejects and what it must let through."""

import itertools
import os
import re
import runpy
import time
from pathlib import Path

import pytest

from robustlm.instructions.banks import InstructionBank, known_banks
from robustlm.instructions.slots import slots
from robustlm.tools.exchanges import exchanged_fields
from robustlm.tools.paraphrase_rules import Rules, nearness, normalised, parse_answer

TWO = ["List every name.", "Who is named?"]


@pytest.mark.parametrize(
    "answer",
    [
        '["List every name.", "Who is named?"]',
        '```json\n["List every name.",\n "Who is named?"]\n```',
        'Here you are:\n\n["List every name.", "Who is named?"]\n\nLet me know!',
        '{"paraphrases": ["List every name.", "Who is named?"]}',
        '{"original": "Find names.", "paraphrases": ["List every name.", "Who is named?"]}',
        '[{"id": 1, "paraphrase": "List every name."}, {"id": 2, "paraphrase": "Who is named?"}]',
        '{"paraphrase": "List every name."}\n{"paraphrase": "Who is named?"}',
        '{"1": "List every name.", "2": "Who is named?"}',
        '"List every name.",\n"Who is named?"',
        '[\n  "List every name.",\n  "Who is named?"',
        "1. List every name.\n2. Who is named?",
        "1) List every name.\n\n2) Who is named?",
        "(1) List every name.\n(2) Who is named?",
        "a) List every name.\nb) Who is named?",
        "- List every name.\n- Who is named?",
        "* List every name.\n• Who is named?",
        '1. "List every name."\n2. “Who is named?”',
        "**1.** List every name.\n**2.** **Who is named?**",
        "Paraphrase 1: List every name.\n**Paraphrase 2:** Who is named?",
        "List every name.\nWho is named?\n",
        "<think>[1, 2] perhaps?</think>\nList every name.\r\nWho is named?",
        "1. List every\n   name.\n2. Who is named?",
    ],
)
def test_answers_are_read(answer: str) -> None:
    assert [" ".join(item.split()) for item in parse_answer(answer)] == TWO


@pytest.mark.parametrize("answer", ["", " \n", "[]", "{}", "```\n```", "---\n***", "<think>hm</think>", "[", "[[]]"])
def test_nothing_to_read(answer: str) -> None:
    assert parse_answer(answer) == []


def test_what_belongs_to_a_candidate_stays() -> None:
    wanted = [
        'Choose from ["PER", "LOC"].',
        'Say "yes" or "no"',
        "{name} is who?",
        "3.5 is what?",
        "Keep **this** word",
    ]
    assert parse_answer("\n".join(f"{number}. {text}" for number, text in enumerate(wanted))) == wanted
    assert parse_answer(wanted[-1]) == wanted[-1:]


def test_any_text_is_read_without_an_error() -> None:
    for text in map("".join, itertools.product(['"', "[", "{", "1. ", "\n", "a", "**"], repeat=4)):
        assert all(item.strip() for item in parse_answer(text))


def test_nearness() -> None:
    assert normalised(" Find, the:  NAMES! ") == "find the names"
    assert nearness("Find the names.", "find the names!") == 0
    assert nearness("a b", "c d") == pytest.approx((1 + 2 / 3) / 2)
    assert nearness("a b c d", "a b x d") == pytest.approx((1 / 4 + 1 / 7) / 2)
    assert normalised("?!") == "?!"


NER = "Find every named entity in the text and give its type."
REJECTED = [
    ("refusal", NER, "I'm sorry, but I can't find any names for you."),
    ("refusal", NER, "As an AI language model, I find no entities."),
    ("refusal", NER, "I cannot list the entities of a text that is not given."),
    ("refusal", NER, "Please provide the text whose entities you want."),
    ("talk", NER, "Here are 8 paraphrases:"),
    ("talk", NER, "Sure! Find the entities in the text with their types."),
    ("talk", NER, "Here are some ways to ask for it."),
    ("talk", NER, "Let me know if you need more of these!"),
    ("talk", NER, "I have kept all the labels as they were."),
    ("talk", NER, "Instructions, in a formal tone:"),
    ("duplicate", NER, "find every named  entity in the text, and give its TYPE"),
    ("near copy", NER, "Find each named entity in the text and give its type."),
    ("placeholders", "Translate {text} to {language}.", "Put {text} into another language."),
    ("placeholders", "Translate {text} for me.", "Take {text} and translate {text}, please."),
    ("placeholders", "Translate {text} for me.", "Please translate {Text} on my behalf."),
    ("placeholders", "Translate the text for me.", "Please translate {text} on my behalf."),
    ("quoted", 'Answer "yes" or "no" to the question.', "Reply to the question in the affirmative or the negative."),
    ("quoted", "Answer `True` where the claim holds.", "Where the claim is right, reply `true`."),
    ("quoted", "Write 'label: class' on each line.", "Put the label and the class on every line."),
    ("quoted", "Say which label fits the review.", 'Pick "positive" or "bad" as the label of this review.'),
    ("numbers", "Summarise the text in 3 sentences.", "Give a summary of the text in a few sentences."),
    ("numbers", "Summarise the text in 3 sentences.", "Sum the text up, using 4 sentences."),
    ("numbers", "Summarise the text in three sentences.", "Sum the text up, using four sentences."),
    ("numbers", "Give some reasons for the claim.", "State 5 reasons that support the claim."),
    ("numbers", "Round to 0.5 and answer.", "Reply after rounding to the nearest 0.05."),
    ("format", "Answer in the form label: class, please.", "Please reply with a label and its class."),
    ("format", "Write type: words; type: words for each entity.", "For every entity write its words and its type."),
    ("format", "Tag each word as PER, LOC or O.", "Give every word a tag: PER, place or O."),
    ("format", "Write the value of max_length down.", "Note the value of the maximum length."),
    ("format", "Translate the sentence to French.", "Render this sentence in another language."),
    (
        "format",
        "Find the names, or answer None where there are some missing.",
        "List names; where some miss, say none.",
    ),
    ("negation", "Do not translate the names in the text.", "Translate whatever names occur in the text."),
    ("negation", "Translate the names in the text.", "Names that occur in the text must never be translated."),
    ("negation", "Include dates in the summary you write.", "The summary that you write should exclude dates."),
    ("negation", "Read the text below and say what it is about.", "What is the text above about? Read it and tell me."),
    ("negation", "List what happened before the war.", "Say which things happened after the war."),
    ("answer", "Name the capital of Norway.", "The capital of Norway is Oslo."),
    ("answer", NER, "Person: Ada; place: Oslo, both types."),
    ("answer", NER, "Answer: find every entity and its type"),
    ("length", "Find the names in this text and give the type of each one.", "Find names."),
    ("length", "Find names.", "Find names. " * 8 + "Do it for everything that the passage says."),
]


ENTAIL = "Does the premise entail the hypothesis? Answer with one word."
EXCHANGED = [
    ("placeholders", "Does {premise} entail {hypothesis}?", "Is it so that {hypothesis} entails {premise}?"),
    ("placeholders", "Translate {text} to {language}.", "Please put {language} into {text} for me."),
    ("placeholders", "Question: {question}\nIs {answer} right?", "Question: {answer}\nDoes {question} seem right?"),
    ("placeholders", "Passage: {passage}\nTell me {question}?", "{question}\nAfter reading, answer this: {passage}?"),
    ("exchanged", "Say yes if the mail is spam, no otherwise.", "Reply no when the mail is spam, or else yes."),
    (
        "exchanged",
        'Answer "yes" if it follows, "no" if it does not.',
        'If it follows write "no", if it does not "yes".',
    ),
    ("exchanged", "True if the claim holds, otherwise false.", "Tell me false if the claim holds, true otherwise."),
    ("exchanged", ENTAIL, "Does the hypothesis entail the premise? Say it in one word."),
    ("exchanged", ENTAIL, "Is the premise entailed by the hypothesis? Use one word to reply."),
    ("exchanged", ENTAIL, "Use one word: does the premise follow from the hypothesis?"),
]
REJECTED += EXCHANGED


@pytest.mark.parametrize(("reason", "instruction", "candidate"), REJECTED)
def test_what_is_rejected(reason: str, instruction: str, candidate: str) -> None:
    problem = Rules().problem(instruction, candidate)
    assert problem.partition(":")[0] == reason, problem


KEPT = [
    (NER, "Which entities does the text name, and what is the type of each?"),
    ("Paraphrase the sentence below.", "Rephrase the following sentence in your own way."),
    ("Say sorry to the customer: write that I'm sorry.", "Write an apology to the customer which says that I'm sorry."),
    ("Translate {text} to {language}.", "Please put {text} into {language} for me."),
    ('Answer "yes" or "no" to the question.', "Is it so? Reply with ‘yes’ or ‘no’ and only that."),
    ("Say which label fits, good or bad.", 'Choose between "good" and "bad", whichever label applies.'),
    ("Summarise the text in 3 sentences.", "Sum up the text, using three sentences for it."),
    ("Write 1,000 words about the sea.", "Compose a text of 1000 words on the subject of the sea."),
    ("Compare the two sentences and say how they relate.", "How are these sentences related? Compare them and tell."),
    ("Is the pair of sentences alike?", "Tell whether both of these two sentences say the same."),
    ("Say what kind of thing it is.", "Tell me which one of the kinds of things this is."),
    ("Answer in the form label: class, please.", "Please reply as label:  class and in no other way, no exceptions."),
    ("Write type: words; type: words for each entity.", "For every entity note type: words; type: words in a row."),
    ("Tag each word as PER, LOC or O.", "Every word gets a tag; choose among PER, LOC and O."),
    ("You MUST name ALL the entities here.", "Make sure that you name all of the entities found here."),
    ("Translate the sentence to French.", "Could you put this sentence into french for me?"),
    ("Do not include dates in the summary.", "Exclude dates from the summary that you write."),
    ("Do not translate names of people.", "Avoid translating what people are called; leave names as they are."),
    ("Find all mistakes in the essay.", "Read the essay and do not leave out any of its mistakes."),
    ("Answer in the given format and add nothing else.", "Reply in the format that is given, only that."),
    ("Answer with a label only.", "Give a label as your answer, without any explanation."),
    ("Is the review positive or negative?", "Does the reviewer judge in a negative or in a positive way?"),
    ("Name the capital of Norway.", "What is the capital of Norway?"),
    ("Translate {text} to {language}.", "Rewrite it to {language}, please: what you translate {text}, that is."),
    ("Say yes if the mail is spam, no otherwise.", "If the mail is spam, reply yes; in all other cases, no."),
    ("Say whether it is spam, yes or no.", "No or yes: would you call this spam?"),
    (ENTAIL, "In one word, is the hypothesis entailed by the premise?"),
    (ENTAIL, "Does the hypothesis follow from the premise? Use one word."),
    ("Is {a} as good as {b}? Answer yes or no.", 'Answer yes or no: would you call "{a}" as good as "{b}"?'),
    ("What is this about? {text}", "{text}\nTopic:"),
    ("Finde alle Namen im Text.", "Welche Namen stehen im Text? Liste sie auf."),
    ("找出文本中的所有名字。", "请列出这段文字里提到的每个名称。"),
]


@pytest.mark.parametrize(("instruction", "candidate"), KEPT)
def test_what_is_kept(instruction: str, candidate: str) -> None:
    assert Rules().problem(instruction, candidate) == ""


# an instruction and a paraphrase of it; with two fields of it exchanged it is none
IF = 'If "{a}", can we conclude that "{b}"?'
ASK = "Question: {question}\nIs this a good answer: {sentence}"
ROLES = [
    (IF, 'Is "{b}" true if "{a}"?'),
    (IF, 'Does "{b}" appear to be an accurate statement based on "{a}"?'),
    (IF, 'Is it possible to draw the conclusion that "{b}" if "{a}"?'),
    (IF, 'Tell if "{b}" follows, given that "{a}".'),
    (IF, 'Sentence 1: "{a}"\nSentence 2: "{b}"\nIs sentence 2 true, based on sentence 1?'),
    (IF, "Sentence B: {b}\nSentence A: {a}\nDoes it follow from sentence A that sentence B is true?"),
    (IF, '"{a}" is a true sentence.\nDoes this mean that "{b}"?'),
    (IF, 'Let\'s say that "{a}"\nCan we now say that "{b}"?'),
    (IF, 'Would you say that "{a}" necessarily implies "{b}"?'),
    (IF, "Assume it is true that {a}\nTherefore, {b}: is it guaranteed, possible, or impossible?"),
    (IF, "Are we justified in saying that {b}, assuming the following: {a}?"),
    (IF, "{a}\nGoing by the paragraph above, should one believe that {b}?"),
    (IF, "{a}\nCan we draw the following conclusion?\n{b}"),
    (IF, "{a}\nBased on that paragraph, is this sentence true?\n{b}"),
    (IF, "Can one derive {b} from {a}, or can one not do so? Say yes or no, not more."),
    (ASK, 'Does "{sentence}" correctly answer the question of {question}?'),
    (ASK, 'Does "{sentence}" contain the correct answer to "{question}"?'),
    (ASK, "Q: {question}\nA: {sentence}\nDoes the answer correctly answer the question?"),
    (ASK, 'I was going to say "{sentence}".\nThe question was: {question}'),
    (ASK, 'I think "{sentence}" is a valid answer.\nThis was the question: {question}'),
    (ASK, "How would you answer this: {question}\nWould it be by {sentence}?"),
    (ASK, "Is the question {question} met by this answer {sentence}, or by something else?"),
    ("{passage}\nQuestion: {question}\nAnswer:", "Based on the following passage, {question}? {passage}"),
    (
        "{context}\nNow answer this: {question}",
        "Answer the question with words from the context: {question}\n{context}",
    ),
    ("With the fact {x}, how would you answer {y}?", "Fact: {x}\nQuestion: {y}\nAnswer:"),
    ("Who is {pronoun} in the following sentence?\n{sentence}", "{sentence}\nTell me who {pronoun} is."),
    (
        "In {text}, does the pronoun {x} stand for {y}?",
        "{text}\nIs {y} what is meant, or does {x} refer to something else?",
    ),
    ("{premise}\nWhat is the {kind} of this?", "Which is the likely {kind} of what the sentence says?\n{premise}"),
    ("{article}\nWrite a title: {document_title}", "Article: {article}\nIts title: {document_title}"),
]


@pytest.mark.parametrize(("instruction", "candidate"), ROLES)
def test_fields_keep_their_roles_in_any_order(instruction: str, candidate: str) -> None:
    rules = Rules(longest=4)
    assert rules.problem(instruction, candidate) == ""
    for one, other in itertools.combinations(slots(candidate), 2):
        swapped = (
            candidate.replace(f"{{{one}}}", "{}").replace(f"{{{other}}}", f"{{{one}}}").replace("{}", f"{{{other}}}")
        )
        assert rules.problem(instruction, swapped).startswith("placeholders: found"), swapped


FOLLOWS, ANSWERS, REFERS = "If {x}, then {y}.", "{x}\nQuestion: {y}", "Does {x} refer to {y}?"
ONE_ROLE = [  # each tells one role, and shows the fields in the other order
    (FOLLOWS, "{y}: so it is, given that {x}"),
    (FOLLOWS, "{y}\nAssume the following: {x}"),
    (FOLLOWS, "Say yes to {y}, based on {x}"),
    (FOLLOWS, "{y}\nThe fact that {x} is known."),
    (FOLLOWS, "Say yes to {y} or say no.\n{x} is true."),
    (FOLLOWS, "Say yes to {y} or say no.\n{x} implies it."),
    ("Is {y} true if {x}?", "{x}\nGoing by the text above: {y}"),
    (FOLLOWS, "Therefore, {y}\nThe words: {x}"),
    (FOLLOWS, "One may conclude that {y}\nThe words: {x}"),
    (FOLLOWS, "Should one believe that {y}\nThe words: {x}"),
    (FOLLOWS, "Is {y} correct\nThe words: {x}"),
    (FOLLOWS, "Can one derive {y}\nThe words: {x}"),
    (FOLLOWS, "Can one deduce the following?\n{y}\nThe words: {x}"),
    (FOLLOWS, "Is this sentence true?\n{y}\nThe words: {x}"),
    (ANSWERS, "Give an answer to {y}\nThe words: {x}"),
    (ANSWERS, "Answer the following: {y}\nThe words: {x}"),
    (ANSWERS, "How would you answer {y}\nThe words: {x}"),
    (ANSWERS, "Now, {y}?\nThe words: {x}"),
    (ANSWERS, "{y}\nAnswer: {x}"),
    (ANSWERS, "{y}\nI found this answer {x}"),
    (ANSWERS, "{y}\nSay whether {x} is a good answer."),
    (ANSWERS, "{y}\nI was going to say {x}."),
    (ANSWERS, "{y}\nI think {x} to be a valid answer."),
    (REFERS, "Of {y} and the pronoun {x}"),
    (REFERS, "Say if {y} is what {x} stands for."),
    (REFERS, "It stands for {y} and it is {x}"),
    ("{x}\nWhat is the {y} of this?", "Tell its most likely {y}\nThe words: {x}"),
    ("{x}\nIs {y} right?", "Say who {y} is.\nThe words: {x}"),
]


@pytest.mark.parametrize(("instruction", "candidate"), ONE_ROLE)
def test_a_role_that_both_wordings_tell_decides(instruction: str, candidate: str) -> None:
    names = ["{x}", "{y}"]
    assert exchanged_fields(instruction, candidate, names) == ""
    wrong = exchanged_fields(
        instruction, candidate.replace("{x}", "{z}").replace("{y}", "{x}").replace("{z}", "{y}"), names
    )
    assert re.fullmatch(r"placeholders: found \{[xy]\} as .+; expected \{[xy]\}", wrong), wrong


SYMMETRIC = [
    ("Are {a} and {b} the same?", "Do {b} and {a} have the same meaning?"),
    ("Is {a} similar to {b}?", "Would you say that {b} and {a} are alike?"),
    ("Do {a} and {b} mean the same thing?", "Is there the same meaning in {b} and {a}?"),
]


@pytest.mark.parametrize(("instruction", "candidate"), SYMMETRIC)
def test_fields_that_are_compared_may_change_places(instruction: str, candidate: str) -> None:
    assert Rules().problem(instruction, candidate) == ""
    assert Rules().problem("Does {a} come before {b}?", "Is it {b} and {a} in the order of time?") != ""


def test_two_fields_without_a_word_between_them_cannot_be_told_apart() -> None:
    bare = "Determine if the sentence is true based on the text below:\n{premise}\n{hypothesis}"
    problem = Rules().problem('{premise}\nBased on it, can we conclude that "{hypothesis}"?', bare)
    assert problem.startswith("placeholders: found nothing that tells {premise} from {hypothesis}")
    assert Rules().problem("{premise}\n{hypothesis}\nRelated?", "Are these two related?\n{premise}\n{hypothesis}") == ""


@pytest.mark.parametrize(
    ("instruction", "wrong"),
    [
        ("{premise}\n{hypothesis}\nTrue?", '{hypothesis}\nIs "{premise}" true? Say so.'),  # the name tells the role
        ("{passage}\n{question}\nReply:", "The question of {passage}\nReply by {question}"),
        ("{a}\nList the options:\n{options_}", "List the options of this text:\n{options_}\n{a}"),
    ],
)
def test_names_tell_roles_and_options_keep_their_place(instruction: str, wrong: str) -> None:
    assert Rules(longest=4).problem(instruction, wrong).startswith("placeholders: found")


DATA = os.environ.get("ROBUSTLM_DATA", "")


@pytest.mark.skipif(not DATA, reason="ROBUSTLM_DATA names no folder of datasets")
def test_published_lists_of_instructions_are_mostly_kept_and_exchanges_rejected() -> None:
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "paraphrase_rules.py"))
    found = script["measure"](Path(DATA) / "instructions")
    assert script["beyond"](found) == []
    for side in ("tuned", "held out"):
        assert found[side]["kept"] >= 0.92 * found[side].total() > 0
    assert found["placeholders exchanged, tuned"]["kept"] == found["answers or sides exchanged"]["kept"] == 0
    assert (
        found["placeholders exchanged, held out"]["kept"] <= 0.005 * found["placeholders exchanged, held out"].total()
    )
    assert found["exchanged, and asks for the same"].total() < 300  # what the criteria take out of the exchanges


def test_paraphrases_differ_from_each_other() -> None:
    kept = ["List the entities of the text, each with its type."]
    rules = Rules()
    assert rules.problem(NER, "List the entities of the text, each with a type.", kept).startswith("near copy: 0.")
    assert (
        rules.problem(NER, "list the entities of the text - each with its type", kept) == f"duplicate: of {kept[0]!r}"
    )
    assert Rules(min_distance=0).problem(NER, "List the entities of the text, each with a type.", kept) == ""


def test_problems_say_what_was_found() -> None:
    problem = Rules().problem("Use 3 words for {x}.", "Take 4 of the words for {x}.")
    assert problem == "numbers: lost 3; new 4"
    problem = Rules().problem("Use words for {x}.", "Take some of the words.")
    assert problem == "placeholders: found none; expected {x}"


@pytest.mark.parametrize("settings", [{"min_distance": 1.0}, {"shortest": 1.2}, {"longest": 0.5}, {"min_distance": -1}])
def test_settings_are_checked(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"^rules.*expected .* found"):
        Rules(**settings)


@pytest.mark.parametrize(
    "text",
    ["a" * 20000, "a_" * 10000, "A-" * 10000, "neither " * 3000, " " * 20000 + "x", "\n[ " * 5000]
    + [
        f"{{a}} {word * 4000} {{b}}"
        for word in ("can ", "the same ", "tell who ", "if the ", "answer this question ", "a: ")
    ]
    + ["{a}\n{b} " * 2000],
)
def test_long_texts_take_no_quadratic_time(text: str) -> None:
    started = time.process_time()
    Rules().problem(text, text + "b")
    parse_answer(text)
    assert time.process_time() - started < 5  # seconds; a fifth of one is usual, and 15 where a pattern backtracks


def test_most_phrasings_of_the_packaged_banks_pass_for_paraphrases_of_each_other() -> None:
    # people wrote them to mean the same, so what is rejected here is lost for nothing; the long ones differ in content
    problems = [
        Rules().problem(one.text, other.text)
        for bank in known_banks()
        if "/" not in bank
        for one, other in itertools.permutations(InstructionBank.load(bank).phrasings("concise"), 2)
    ]
    assert problems.count("") > 0.85 * len(problems)

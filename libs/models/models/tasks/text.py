"""The rows of transformers for text-only tasks."""

from models.tasks.row import ASKED, CUT, QUERY, RANK, TOP_K, Parameter, Returns, Task

NEW_TOKENS = Parameter("max_new_tokens", "integer", "Most tokens to generate.", 128, 1, 32_768)
BEAMS = Parameter("num_beams", "integer", "Texts to weigh against each other.", None, 1, 16)
# Encoders with a decoder.
REWRITES = ("ForConditionalGeneration", "MTModel", "EncoderDecoderModel", "MTHeadModel")

TEXT = (
    Task(
        "text-classification",
        "transformers",
        "text_classification",
        "text",
        Returns({"label": "string", "score": "number"}, many=True, ranked=True, note=CUT),
        ("ForSequenceClassification",),
        ("AutoModelForSequenceClassification",),
        parameters=(
            TOP_K,
            Parameter(
                "text_pair",
                "string",
                "A second text, judged with each input; needed by models that compare two texts.",
            ),
        ),
        measured=True,
    ),
    Task(
        "token-classification",
        "transformers",
        "token_classification",
        "text",
        Returns(
            {
                "entity or entity_group": "string",
                "score": "number",
                "word": "string",
                "start": "integer",
                "end": "integer",
            },
            many=True,
        ),
        ("ForTokenClassification",),
        ("AutoModelForTokenClassification",),
        parameters=(
            Parameter(
                "aggregation_strategy",
                "string",
                "How tokens become entities: none, simple, first, average or max.",
                "simple",
            ),
        ),
        measured=True,
    ),
    Task(
        "fill-mask",
        "transformers",
        "fill_mask",
        "text",
        Returns(
            {
                "token_str": "string",
                "token": "integer",
                "score": "number",
                "sequence": "string",
            },
            many=True,
            ranked=True,
            note="[MASK] in the text stands for the word to be found.",
        ),
        ("ForMaskedLM", "ForPreTraining", "WithLMHeadModel"),
        ("AutoModelForMaskedLM",),
        parameters=(TOP_K,),
        # Modules accept this mask, whatever the model's own token is.
        example={"text": "Hello, [MASK]"},
        every_logit=True,
        measured=True,
    ),
    Task(
        "zero-shot-classification",
        "transformers",
        "zero_shot_text",
        "text",
        Returns({"sequence": "string", "labels": "list", "scores": "numbers"}, note=CUT),
        ("ForSequenceClassification",),
        ("AutoModelForSequenceClassification",),
        head="text-classification",
        parameters=(
            Parameter(
                "candidate_labels",
                "string",
                "The labels to choose from, separated by commas.",
                "positive, negative",
            ),
            Parameter("multi_label", "boolean", "Whether several labels may hold.", False),
        ),
        measured=True,
    ),
    Task(
        "feature-extraction",
        "transformers",
        "feature_extraction",
        "text",
        Returns(
            bare="a list of one: the last hidden state, a list of vectors, one per token", note=CUT
        ),
        auto_classes=("AutoModel",),
        measured=True,
    ),
    Task(
        "text-generation",
        "transformers",
        "text_generation",
        "text",
        Returns(
            {"generated_text": "string"},
            note="The input itself is left out. A text is asked as the one turn of a chat where "
            "the model has a chat template, and continued as it stands where it has none or `raw` "
            "is true; a request may also hold whole chats, each a list of {role, content}.",
        ),
        ("ForCausalLM", "LMHeadModel"),
        ("AutoModelForCausalLM",),
        batch_size=1,
        parameters=(
            NEW_TOKENS,
            Parameter(
                "raw",
                "boolean",
                "Continue the text as it stands, also where the model has a form for chats.",
                False,
            ),
            Parameter(
                "temperature",
                "number",
                "0: always the likeliest token; above: chosen at random, the higher the freer.",
                0.0,
                0,
                5,
            ),
            Parameter(
                "top_p", "number", "Choose among tokens of this total probability.", None, 0, 1
            ),
            Parameter("top_k", "integer", "Choose among so many tokens; 0: all.", None, 0, 100_000),
            Parameter("repetition_penalty", "number", "Above 1: repeat less.", None, 0.1, 10),
        ),
        generates=True,
        measured=True,
    ),
    Task(
        "summarization",
        "transformers",
        "rewriting",
        "text",
        Returns({"summary_text": "string"}),
        REWRITES,
        ("AutoModelForSeq2SeqLM",),
        processor="AutoProcessor",
        parameters=(NEW_TOKENS, BEAMS),
        generates=True,
        measured=True,
    ),
    Task(
        "translation",
        "transformers",
        "translation",
        "text",
        Returns({"translation_text": "string"}),
        REWRITES,
        ("AutoModelForSeq2SeqLM",),
        processor="AutoProcessor",
        parameters=(
            Parameter("source_language", "string", "As the model names it: en, eng_Latn."),
            Parameter(
                "target_language",
                "string",
                "As the model names it: de, deu_Latn. Left out: English, or the first pair of "
                "languages that the model was trained for.",
            ),
            NEW_TOKENS,
            BEAMS,
        ),
        generates=True,
        measured=True,
    ),
    Task(
        "text2text-generation",
        "transformers",
        "rewriting",
        "text",
        Returns({"generated_text": "string"}),
        REWRITES,
        ("AutoModelForSeq2SeqLM",),
        processor="AutoProcessor",
        parameters=(NEW_TOKENS, BEAMS),
        generates=True,
    ),
    Task(
        "text-ranking",
        "transformers",
        "reranking",
        "text",
        RANK,
        ("ForSequenceClassification",),
        ("AutoModelForSequenceClassification",),
        head="text-classification",
        parameters=(QUERY,),
        example=ASKED,
    ),
    Task(
        "question-answering",
        "transformers",
        "question_answering",
        "question",
        Returns(
            {"answer": "string", "score": "number", "start": "integer", "end": "integer"},
            note="`start` and `end` count characters of the context.",
        ),
        ("ForQuestionAnswering", "ForQuestionAnsweringSimple"),
        ("AutoModelForQuestionAnswering",),
        processor="AutoProcessor",
        parameters=(
            Parameter("context", "string", "The text that the answer stands in."),
            Parameter("max_answer_tokens", "integer", "The longest answer.", 15, 1, 512),
        ),
        example={"context": "The frog sits on the pad."},
        measured=True,
    ),
    Task(
        "multiple-choice",
        "transformers",
        "multiple_choice",
        "text",
        Returns({"choice": "string", "index": "integer", "scores": "numbers"}),
        ("ForMultipleChoice",),
        ("AutoModelForMultipleChoice",),
        processor="AutoProcessor",
        parameters=(Parameter("choices", "string", "What may follow: one per line."),),
        example={"choices": "It swims.\nIt flies."},
    ),
    Task(
        "table-question-answering",
        "transformers",
        "table_qa",
        "table",
        Returns(
            {"answer": "string", "coordinates": "list", "cells": "list", "aggregator": "string"},
            note="`coordinates` are pairs of row and column.",
        ),
        ("ForQuestionAnswering",),
        ("AutoModelForTableQuestionAnswering",),
        parameters=(Parameter("question", "string", "The question."),),
        example={"question": "How old is the frog?"},
    ),
)

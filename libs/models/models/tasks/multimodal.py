"""Task rows of transformers for several kinds of input at once."""

from models.tasks.row import CHOSEN, INPUTS, NEW_TOKENS, TEMPERATURE, Parameter, Returns, Task

QUESTION = Parameter("question", "string", "The question.")
PROMPT = Parameter("text", "string", "The instruction, or the beginning of the answer.")
GENERATED = Returns({"generated_text": "string"}, note="It does not repeat the input. " + CHOSEN)
ASKED = {"text": "What is it?"}
# The image, video or audio comes before the text.
CONVERSES = ("ForConditionalGeneration", "ForCausalLM", "EncoderDecoderModel")

MULTIMODAL = (
    Task(
        "image-text-to-text",
        "transformers",
        "multimodal",
        "image",
        GENERATED,
        CONVERSES,
        ("AutoModelForImageTextToText",),
        processor="AutoProcessor",
        parameters=(PROMPT, NEW_TOKENS, TEMPERATURE),
        example=ASKED,
        optional=("text",),
        generates=True,
        texts=True,
    ),
    Task(
        "image-to-text",
        "transformers",
        "multimodal",
        "image",
        GENERATED,
        CONVERSES,
        ("AutoModelForImageTextToText",),
        processor="AutoProcessor",
        parameters=(PROMPT, NEW_TOKENS, TEMPERATURE),
        generates=True,
        texts=True,
    ),
    Task(
        "video-text-to-text",
        "transformers",
        "multimodal",
        "video",
        GENERATED,
        CONVERSES,
        ("AutoModelForImageTextToText",),
        processor="AutoProcessor",
        parameters=(
            PROMPT,
            Parameter("frames", "integer", "Number of evenly spaced frames to read.", 8, 1, 256),
            NEW_TOKENS,
            TEMPERATURE,
        ),
        example=ASKED,
        optional=("text",),
        generates=True,
        texts=True,
    ),
    Task(
        "audio-text-to-text",
        "transformers",
        "multimodal",
        "audio",
        GENERATED,
        CONVERSES,
        ("AutoModelForMultimodalLM",),
        processor="AutoProcessor",
        parameters=(PROMPT, NEW_TOKENS, TEMPERATURE),
        example=ASKED,
        optional=("text",),
        generates=True,
        texts=True,
    ),
    Task(
        "any-to-any",
        "transformers",
        "multimodal",
        "text",
        Returns(
            {"generated_text": "string"},
            note="It does not repeat the input. Inputs may be of any kind; the output is text. "
            + CHOSEN,
        ),
        CONVERSES,
        ("AutoModelForMultimodalLM",),
        processor="AutoProcessor",
        parameters=(
            *(INPUTS[kind].parameter for kind in ("image", "audio", "video")),
            NEW_TOKENS,
            TEMPERATURE,
        ),
        generates=True,
    ),
    Task(
        "visual-question-answering",
        "transformers",
        "visual_qa",
        "image",
        Returns(
            {"answer": "string", "score": "number"},
            many=True,
            ranked=True,
            note="`score` is null if the model writes its answer.",
        ),
        ("ForQuestionAnswering",),
        ("AutoModelForVisualQuestionAnswering",),
        processor="AutoProcessor",
        parameters=(
            QUESTION,
            Parameter("top_k", "integer", "Number of answers to return.", 5, 1, 1000),
        ),
        example={"question": "What is it?"},
        texts=True,
    ),
    Task(
        "document-question-answering",
        "transformers",
        "document_qa",
        "image",
        Returns(
            {"answer": "string", "score": "number", "start": "integer", "end": "integer"},
            many=True,
            ranked=True,
            note="`start` and `end` count words.",
        ),
        ("LayoutLMForQuestionAnswering",),
        ("AutoModelForDocumentQuestionAnswering",),
        parameters=(
            QUESTION,
            Parameter(
                "words",
                "string",
                "The page's words and boxes from an OCR program, as JSON "
                "[[word, [left, top, right, bottom]], ...], with sides from 0 to 1000.",
            ),
            Parameter("top_k", "integer", "Number of answers to return.", 1, 1, 1000),
        ),
        example={"question": "What is it?", "words": '[["frog", [0, 0, 500, 100]]]'},
        texts=True,
    ),
    Task(
        "visual-document-retrieval",
        "transformers",
        "document_retrieval",
        "image",
        Returns(
            {"score": "number", "vectors": "vectors"},
            note="`score`: how well the page answers `query`.",
        ),
        ("ColQwen2ForRetrieval",),
        ("ColQwen2ForRetrieval",),
        processor="AutoProcessor",
        parameters=(
            Parameter("query", "string", "The query to compare the pages with."),
            Parameter("vectors", "boolean", "Whether to return the pages' vectors.", False),
        ),
        example={"query": "What is it?"},
        texts=True,
        reads_pictures=True,
    ),
)

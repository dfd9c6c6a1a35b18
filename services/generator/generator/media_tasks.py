"""The rows of transformers for tasks of sounds, videos, tables, and of several things at once.

Where a row lists `classes`, only those are proven to run without libraries that a module lacks.
"""

from generator.tasks import TOP_K, Parameter, Task

QUESTION = Parameter("question", "string", "The question.")
LABELS = Parameter(
    "candidate_labels",
    "string",
    "The labels to choose from, separated by commas.",
    "person, animal",
)
TOKENS = Parameter("max_new_tokens", "integer", "Most tokens to write.", 128, 1, 32_768)
BEAMS = Parameter("num_beams", "integer", "Texts to weigh against each other.", None, 1, 16)
PROMPT = Parameter("text", "string", "What to do, or how the answer begins.")
SPEECH = "For each input {audio, sampling_rate, seconds}: a WAV file as base64."
GENERATED = "For each input {generated_text}, without the input itself."
LABELLED = "For each input a list of {label, score}, best first."

# Encoders with a decoder.
REWRITES = ("ForConditionalGeneration", "MTModel", "EncoderDecoderModel", "MTHeadModel")
# What is shown or heard goes before the text.
CONVERSES = ("ForConditionalGeneration", "ForCausalLM", "EncoderDecoderModel")

MEDIA_TASKS = {
    task.name: task
    for task in (
        Task(
            "automatic-speech-recognition",
            "hearing",
            "audio",
            "For each input {text}, with `timestamps` also {chunks: [{text, timestamp}]}.",
            ("ForCTC", "ForTDT", "WhisperForConditionalGeneration"),
            parameters=(Parameter("timestamps", "boolean", "Whether to say when.", False),),
            texts=True,
        ),
        Task(
            "audio-classification",
            "hearing",
            "audio",
            LABELLED + " A sound longer than the model hears is cut at its end.",
            ("ForAudioClassification", "ForSequenceClassification"),
            parameters=(TOP_K,),
        ),
        Task(
            "summarization",
            "rewriting",
            "text",
            "For each input {summary_text}.",
            REWRITES,
            parameters=(TOKENS, BEAMS),
            generates=True,
        ),
        Task(
            "translation",
            "rewriting",
            "text",
            "For each input {translation_text}.",
            REWRITES,
            parameters=(
                Parameter("source_language", "string", "As the model names it: en, eng_Latn."),
                Parameter(
                    "target_language",
                    "string",
                    "As the model names it: de, deu_Latn. Left out: English, or the first pair of "
                    "languages that the model was trained for.",
                ),
                TOKENS,
                BEAMS,
            ),
            generates=True,
        ),
        Task(
            "question-answering",
            "reading",
            "question",
            "For each input {answer, score, start, end}; the last two count characters.",
            ("ForQuestionAnswering", "ForQuestionAnsweringSimple"),
            parameters=(
                Parameter("context", "string", "The text that the answer stands in."),
                Parameter("max_answer_tokens", "integer", "The longest answer.", 15, 1, 512),
            ),
        ),
        Task(
            "multiple-choice",
            "choosing",
            "text",
            "For each input {choice, index, scores}.",
            ("ForMultipleChoice",),
            parameters=(Parameter("choices", "string", "What may follow: one per line."),),
        ),
        Task(
            "zero-shot-image-classification",
            "pipeline",
            "image",
            LABELLED,
            ("Model",),
            parameters=(LABELS,),
            texts=True,
        ),
        Task(
            "zero-shot-object-detection",
            "pipeline",
            "image",
            "For each input a list of {label, score, box: {xmin, ymin, xmax, ymax}} in pixels.",
            ("ForObjectDetection",),
            batch_size=1,
            parameters=(
                LABELS,
                Parameter("threshold", "number", "Least score to answer.", 0.1, 0, 1),
            ),
            texts=True,
        ),
        Task(
            "image-text-to-text",
            "conversing",
            "image",
            GENERATED,
            CONVERSES,
            parameters=(PROMPT, TOKENS),
            generates=True,
            texts=True,
        ),
        Task(
            "image-to-text",
            "conversing",
            "image",
            GENERATED,
            CONVERSES,
            parameters=(PROMPT, TOKENS),
            generates=True,
            texts=True,
        ),
        Task(
            "video-text-to-text",
            "conversing",
            "video",
            GENERATED,
            CONVERSES,
            parameters=(
                PROMPT,
                Parameter("frames", "integer", "Pictures to look at, evenly spaced.", 8, 1, 256),
                TOKENS,
            ),
            generates=True,
            texts=True,
        ),
        Task(
            "audio-text-to-text",
            "conversing",
            "audio",
            GENERATED,
            CONVERSES,
            parameters=(PROMPT, TOKENS),
            generates=True,
            texts=True,
        ),
        Task(
            "any-to-any",
            "conversing",
            "text",
            GENERATED + " Inputs of any kind; text alone is answered.",
            CONVERSES,
            parameters=(
                Parameter("image", "string", "An image, as base64, or a file's name in /inputs."),
                Parameter("audio", "string", "A sound, as base64, or a file's name in /inputs."),
                Parameter("video", "string", "A video, as base64, or a file's name in /inputs."),
                TOKENS,
            ),
            generates=True,
        ),
        Task(
            "visual-question-answering",
            "asking",
            "image",
            "For each input a list of {answer, score}, best first; no score if it is written.",
            ("ForQuestionAnswering",),
            parameters=(
                QUESTION,
                Parameter("top_k", "integer", "How many answers.", 5, 1, 1000),
            ),
            texts=True,
        ),
        Task(
            "document-question-answering",
            "documents",
            "image",
            "For each input a list of {answer, score, start, end}; the last two count words.",
            ("LayoutLMForQuestionAnswering",),
            parameters=(
                QUESTION,
                Parameter(
                    "words",
                    "string",
                    "The page's words and boxes from an OCR program, as JSON "
                    "[[word, [left, top, right, bottom]], ...], with sides from 0 to 1000.",
                ),
                Parameter("top_k", "integer", "How many answers.", 1, 1, 1000),
            ),
            texts=True,
        ),
        Task(
            "table-question-answering",
            "tables",
            "table",
            "For each input {answer, coordinates, cells, aggregator}; coordinates: row, column.",
            ("ForQuestionAnswering",),
            parameters=(QUESTION,),
        ),
        Task("text-to-speech", "voice", "text", SPEECH, ("VitsModel",)),
        Task(
            "text-to-audio",
            "voice",
            "text",
            SPEECH,
            ("VitsModel", "MusicgenForConditionalGeneration"),
        ),
        Task(
            "image-segmentation",
            "pictures",
            "image",
            "For each input a list of {label, score, mask}: the mask a PNG as base64.",
            (
                "ForSemanticSegmentation",
                "Mask2FormerForUniversalSegmentation",
                "MaskFormerForInstanceSegmentation",
            ),
        ),
        Task(
            "mask-generation",
            "masking",
            "image",
            "For each input a list of {score, mask}, best first: the mask a PNG as base64.",
            ("SamModel",),
            parameters=(
                Parameter("points", "integer", "Points to try along each side.", 32, 1, 64),
                Parameter("threshold", "number", "How sure the model is to be.", 0.88, 0, 1),
                Parameter("stability", "number", "How clear a mask's edge is to be.", 0.95, 0, 1),
            ),
        ),
        Task(
            "visual-document-retrieval",
            "searching",
            "image",
            "For each input {score, vectors}: how well the page answers `query`, and its vectors.",
            ("ColQwen2ForRetrieval",),
            parameters=(
                Parameter("query", "string", "What is asked of the pages."),
                Parameter("vectors", "boolean", "Whether to answer the pages' vectors.", False),
            ),
            texts=True,
        ),
        Task(
            "depth-estimation",
            "pictures",
            "image",
            "For each input {predicted_depth, depth}: rows of numbers, and a PNG as base64.",
            ("ForDepthEstimation",),
        ),
        Task(
            "image-to-image",
            "upscaling",
            "image",
            "For each input {image, width, height}: a PNG as base64.",
            ("ForImageSuperResolution",),
        ),
        Task(
            "keypoint-detection",
            "keypoints",
            "image",
            "For each input a list of {x, y, score, descriptor}, best first, in pixels.",
            ("ForKeypointDetection",),
            parameters=(
                Parameter("threshold", "number", "Least score to answer.", 0.0, 0, 1),
                Parameter("top_k", "integer", "Most points to answer.", 1000, 1, 10_000),
            ),
        ),
        Task(
            "video-classification",
            "watching",
            "video",
            LABELLED,
            ("ForVideoClassification",),
            parameters=(TOP_K,),
        ),
        Task(
            "time-series-forecasting",
            "forecasting",
            "series",
            "For each input {mean, quantiles}: a number and one per quantile, for each step.",
            ("ForPrediction",),
            parameters=(
                Parameter("horizon", "integer", "Steps to look ahead.", 16, 1, 4096),
                Parameter(
                    "frequency", "integer", "0: days or finer; 1: weeks, months; 2: rarer.", 0, 0, 2
                ),
            ),
        ),
    )
}

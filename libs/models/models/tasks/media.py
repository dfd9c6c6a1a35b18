"""Task rows of transformers for one image, audio clip, video or series.

Where a row lists whole class names, only those are proven to run without libraries that a module
lacks.
"""

from models.tasks.row import FOUND_BOXES, RANKED_LABELS, TOP_K, Parameter, Returns, Task

LABELS = Parameter(
    "candidate_labels",
    "string",
    "The labels to choose from, separated by commas.",
    "person, animal",
)
SHRUNK = "An image of more than 1,048,576 pixels is scaled down; its masks have the original size."
SPEECH = Returns({"audio": "audio", "sampling_rate": "integer", "seconds": "number"})

AUDIO = (
    Task(
        "automatic-speech-recognition",
        "transformers",
        "speech",
        "audio",
        Returns(
            {"text": "string"},
            note="With `timestamps` there is also `chunks`: a list of {text, timestamp}.",
        ),
        ("ForCTC", "ForTDT", "WhisperForConditionalGeneration"),
        ("AutoModelForCTC", "AutoModelForTDT", "AutoModelForSpeechSeq2Seq"),
        parameters=(
            Parameter("timestamps", "boolean", "Whether to return the time of each part.", False),
        ),
        texts=True,
        transcribes=True,
        measured=True,
    ),
    Task(
        "audio-classification",
        "transformers",
        "audio_classification",
        "audio",
        Returns(
            {"label": "string", "score": "number"},
            many=True,
            ranked=True,
            note="A sound longer than the model's limit is truncated.",
        ),
        ("ForAudioClassification", "ForSequenceClassification"),
        ("AutoModelForAudioClassification",),
        parameters=(TOP_K,),
        measured=True,
    ),
    Task(
        "text-to-speech",
        "transformers",
        "text_to_audio",
        "text",
        SPEECH,
        ("VitsModel",),
        ("AutoModelForTextToWaveform", "AutoModelForTextToSpectrogram"),
    ),
    Task(
        "text-to-audio",
        "transformers",
        "text_to_audio",
        "text",
        SPEECH,
        ("VitsModel", "MusicgenForConditionalGeneration"),
        ("AutoModelForTextToWaveform", "AutoModelForTextToSpectrogram"),
    ),
)

IMAGES = (
    Task(
        "image-classification",
        "transformers",
        "vision",
        "image",
        RANKED_LABELS,
        ("ForImageClassification", "ForImageClassificationWithTeacher"),
        ("AutoModelForImageClassification",),
        parameters=(TOP_K,),
        measured=True,
    ),
    Task(
        "image-feature-extraction",
        "transformers",
        "vision",
        "image",
        Returns(
            bare="a list of one: the last hidden state, a list of vectors, one per patch",
            states=True,
        ),
        auto_classes=("AutoModel",),
        measured=True,
    ),
    Task(
        "object-detection",
        "transformers",
        "vision",
        "image",
        FOUND_BOXES,
        ("ForObjectDetection",),
        ("AutoModelForObjectDetection",),
        batch_size=1,
        parameters=(Parameter("threshold", "number", "Minimum score to return.", 0.5, 0, 1),),
        measured=True,
    ),
    Task(
        "zero-shot-image-classification",
        "transformers",
        "zero_shot_image",
        "image",
        RANKED_LABELS,
        ("Model",),
        ("AutoModelForZeroShotImageClassification",),
        parameters=(LABELS,),
        texts=True,
    ),
    Task(
        "zero-shot-object-detection",
        "transformers",
        "zero_shot_detection",
        "image",
        FOUND_BOXES,
        ("ForObjectDetection",),
        ("AutoModelForZeroShotObjectDetection",),
        batch_size=1,
        parameters=(
            LABELS,
            Parameter("threshold", "number", "Minimum score to return.", 0.1, 0, 1),
        ),
        texts=True,
    ),
    Task(
        "image-segmentation",
        "transformers",
        "segmentation",
        "image",
        Returns({"label": "string", "score": "number", "mask": "mask"}, many=True, note=SHRUNK),
        (
            "ForSemanticSegmentation",
            "Mask2FormerForUniversalSegmentation",
            "MaskFormerForInstanceSegmentation",
        ),
        (
            "AutoModelForImageSegmentation",
            "AutoModelForSemanticSegmentation",
            "AutoModelForInstanceSegmentation",
            "AutoModelForUniversalSegmentation",
        ),
        measured=True,
    ),
    Task(
        "mask-generation",
        "transformers",
        "mask_generation",
        "image",
        Returns({"score": "number", "mask": "mask"}, many=True, ranked=True, note=SHRUNK),
        ("SamModel",),
        ("AutoModelForMaskGeneration",),
        parameters=(
            Parameter("points", "integer", "Points to sample along each side.", 32, 1, 64),
            Parameter("threshold", "number", "Minimum predicted quality of a mask.", 0.88, 0, 1),
            Parameter("stability", "number", "Minimum stability of a mask's edge.", 0.95, 0, 1),
        ),
    ),
    Task(
        "depth-estimation",
        "transformers",
        "depth",
        "image",
        Returns(
            {"predicted_depth": "vectors", "depth": "image"},
            note="`predicted_depth` is rows of numbers. An image of more than 1,048,576 pixels "
            "is scaled down, and so is its depth.",
        ),
        ("ForDepthEstimation",),
        ("AutoModelForDepthEstimation",),
        measured=True,
    ),
    Task(
        "image-to-image",
        "transformers",
        "super_resolution",
        "image",
        Returns({"image": "image", "width": "integer", "height": "integer"}),
        ("ForImageSuperResolution",),
        ("AutoModelForImageToImage",),
        processor="AutoImageProcessor",
    ),
    Task(
        "keypoint-detection",
        "transformers",
        "keypoint_detection",
        "image",
        Returns(
            {"x": "number", "y": "number", "score": "number", "descriptor": "vector"},
            many=True,
            ranked=True,
            note="`x` and `y` are pixels.",
        ),
        ("ForKeypointDetection",),
        ("AutoModelForKeypointDetection",),
        processor="AutoImageProcessor",
        parameters=(
            Parameter("threshold", "number", "Minimum score to return.", 0.0, 0, 1),
            Parameter(
                "top_k", "integer", "Maximum number of keypoints to return.", 1000, 1, 10_000
            ),
        ),
    ),
)

OTHER = (
    Task(
        "video-classification",
        "transformers",
        "video_classification",
        "video",
        RANKED_LABELS,
        ("ForVideoClassification",),
        ("AutoModelForVideoClassification",),
        processor="AutoImageProcessor",
        parameters=(TOP_K,),
    ),
    Task(
        "time-series-forecasting",
        "transformers",
        "forecasting",
        "series",
        Returns(
            {"mean": "numbers", "quantiles": "vectors"},
            note="Each has one entry per step ahead; `quantiles` a number for each quantile.",
        ),
        ("ForPrediction",),
        ("AutoModelForTimeSeriesPrediction",),
        parameters=(
            Parameter("horizon", "integer", "Number of steps to forecast.", 16, 1, 4096),
            Parameter(
                "frequency", "integer", "0: days or finer; 1: weeks, months; 2: rarer.", 0, 0, 2
            ),
        ),
    ),
)

MEDIA = (*AUDIO, *IMAGES, *OTHER)

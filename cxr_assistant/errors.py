"""Everything that can go wrong, as sentences for the person in front of the screen.

    CxrAssistantError                  shown to the user: message + hint
    ├── StudyError                     the uploaded file or the study cannot be used
    │   ├── EmptyFile
    │   ├── UnsupportedFileType
    │   ├── UnreadableImage            damaged, truncated or contradictory file
    │   ├── UnsupportedModality        a CT, an ultrasound, a report
    │   ├── UnsupportedTransferSyntax
    │   ├── UnusableImage              too small, too large, blank, several frames
    │   └── InvalidStudy               an order of radiographs that makes no sense
    ├── CheckpointError
    │   ├── UnknownCheckpoint
    │   ├── MissingWeights
    │   ├── CorruptWeights
    │   ├── WeightsMismatch            leftover or missing tensors, contradictory configuration
    │   ├── LicenceNotAccepted
    │   ├── DownloadFailed
    │   └── NotEnoughDisk
    ├── GenerationError
    │   ├── UnsupportedTask
    │   ├── MissingRadiograph
    │   ├── ForeignImage               a real film given to the model that knows phantoms only
    │   ├── PromptTooLong
    │   ├── OutOfMemory
    │   ├── Busy                       too many answers are waited for, here or by this visitor
    │   └── WorkerUnavailable          the engine process died or does not answer
    ├── PhantomError                   a phantom that cannot be computed as asked
    ├── EvaluationError
    └── SettingsError                  a bad value in the environment or on the command line

Messages say what was wrong, the value found and the values allowed; the hint says what to do next.
They never carry file names, tag values of a patient, paths or text from a library.
"""

from __future__ import annotations

__all__ = [
    "Busy",
    "CheckpointError",
    "CorruptWeights",
    "CxrAssistantError",
    "DownloadFailed",
    "EmptyFile",
    "EvaluationError",
    "ForeignImage",
    "GenerationError",
    "InvalidStudy",
    "LicenceNotAccepted",
    "MissingRadiograph",
    "MissingWeights",
    "NotEnoughDisk",
    "OutOfMemory",
    "PhantomError",
    "PromptTooLong",
    "SettingsError",
    "StudyError",
    "UnknownCheckpoint",
    "UnreadableImage",
    "UnsupportedFileType",
    "UnsupportedModality",
    "UnsupportedTask",
    "UnsupportedTransferSyntax",
    "UnusableImage",
    "WeightsMismatch",
    "WorkerUnavailable",
]


class CxrAssistantError(Exception):
    """Base of every error of the project: one sentence for a person, and a hint on what to do next.

    `code` is stable and meant for programs; `message` and `hint` are meant for people.
    """

    code = "error"

    def __init__(self, message: str, *, hint: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process boundaries (decoder child, engine worker): keep hint and code.
        return (_rebuild, (type(self), self.message, self.hint, self.code))


def _rebuild(kind: type[CxrAssistantError], message: str, hint: str, code: str) -> CxrAssistantError:
    return kind(message, hint=hint, code=code)


class StudyError(CxrAssistantError):
    """The uploaded file, or the study made of it, cannot be used."""

    code = "study"


class EmptyFile(StudyError):
    """The file holds no bytes."""

    code = "empty"


class UnsupportedFileType(StudyError):
    """The content is no DICOM, PNG or JPEG, whatever its name says."""

    code = "bad_type"


class UnreadableImage(StudyError):
    """The file is damaged, cut off, or contradicts itself."""

    code = "bad_header"


class UnsupportedModality(StudyError):
    """A readable DICOM object that is not a plain radiograph."""

    code = "wrong_modality"


class UnsupportedTransferSyntax(StudyError):
    """No installed decoder reads the pixel encoding (0002,0010)."""

    code = "unsupported"


class UnusableImage(StudyError):
    """The picture decodes, but nothing can be read from it: too small, too large, blank, a sequence."""

    code = "too_small"


class InvalidStudy(StudyError):
    """Radiographs were put together in a way that makes no study."""

    code = "invalid_study"


class CheckpointError(CxrAssistantError):
    """A checkpoint cannot be found, fetched, converted or loaded."""

    code = "checkpoint"


class UnknownCheckpoint(CheckpointError):
    """No file in `checkpoints/` declares this name."""

    code = "unknown_checkpoint"


class MissingWeights(CheckpointError):
    """A file of the checkpoint is not there."""

    code = "missing_weights"


class CorruptWeights(CheckpointError):
    """A file of the checkpoint does not have the expected content."""

    code = "corrupt_weights"


class WeightsMismatch(CheckpointError):
    """Tensors were left over or missing, or the configuration contradicts the architecture."""

    code = "weights_mismatch"


class LicenceNotAccepted(CheckpointError):
    """The checkpoint's terms were not accepted yet."""

    code = "licence"


class DownloadFailed(CheckpointError):
    """The Hub could not be reached, or refused."""

    code = "download"


class NotEnoughDisk(CheckpointError):
    """There is no room for the download or its conversion."""

    code = "disk"


class GenerationError(CxrAssistantError):
    """The answer could not be produced."""

    code = "generation"


class UnsupportedTask(GenerationError):
    """The checkpoint was not trained for the task."""

    code = "unsupported_task"


class MissingRadiograph(GenerationError):
    """A question was asked before any film was given."""

    code = "missing_radiograph"


class ForeignImage(GenerationError):
    """The embedded model, which knows phantoms only, was given something else."""

    code = "foreign_image"


class PromptTooLong(GenerationError):
    """Image and text do not fit the context of the checkpoint."""

    code = "prompt_too_long"


class OutOfMemory(GenerationError):
    """The device has no memory left for this request."""

    code = "out_of_memory"


class Busy(GenerationError):
    """More answers are waited for than this server, this address or this visitor may wait for."""

    code = "busy"


class WorkerUnavailable(GenerationError):
    """The engine process died or does not answer."""

    code = "worker_unavailable"


class PhantomError(CxrAssistantError):
    """A phantom cannot be computed as asked."""

    code = "phantom"


class EvaluationError(CxrAssistantError):
    """An evaluation could not be carried out."""

    code = "evaluation"


class SettingsError(CxrAssistantError):
    """A setting has a value that is not allowed."""

    code = "settings"

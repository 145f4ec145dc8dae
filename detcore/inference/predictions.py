"""The predictions of several images, as one list."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from detcore.inference.prediction import Prediction
from detcore.inference.writing import Format, common_folder, writer_of
from detcore.inference.writing.table import table_rows

if TYPE_CHECKING:
    import pandas


class Predictions(list[Prediction]):
    """A list of predictions that can be handed on as a whole."""

    def to_pandas(self) -> "pandas.DataFrame":
        """A row a detection; see `Prediction.to_pandas`."""
        return data_frame(table_rows(self))

    def to_coco(self) -> list[dict[str, Any]]:
        """COCO's results list; `image_id` counts the images from 1."""
        return [row for image_id, prediction in enumerate(self, 1) for row in prediction.to_coco(image_id)]

    def save(self, folder: Path | str, format: Format) -> None:
        """Writes a data set; see `detcore.inference.writing.writer_of`. Images are not copied.

        Raises:
            ValueError: there is no prediction, or the format cannot hold these.
        """
        if not self:
            raise ValueError("no prediction to save")
        first = self[0]
        with writer_of(
            format,
            folder,
            categories=first.categories,
            keypoint_names=first.keypoint_names,
            skeleton=first.skeleton,
            root=common_folder(prediction.source for prediction in self),
        ) as writer:
            for prediction in self:
                writer.add(prediction)


def data_frame(rows: list[dict[str, Any]]) -> "pandas.DataFrame":
    try:
        import pandas
    except ImportError as error:
        raise ValueError("to_pandas needs pandas: pip install pandas") from error
    return pandas.DataFrame(rows)

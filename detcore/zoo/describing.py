"""A registered version gets its dossier and its model card."""

import tempfile
from pathlib import Path

from detcore.config import Config
from detcore.tracking.attachments import MOST_DESCRIPTION, attach
from detcore.tracking.client import tracking_uri
from detcore.tracking.lineage import lineage
from detcore.zoo.card import make_card
from detcore.zoo.card_files import description, html, markdown
from detcore.zoo.dossier import collect, read_dossier

CARD_HTML, CARD_MARKDOWN = "card.html", "card.md"


def describe_version(name: str, *, config: Config) -> None:
    """Keeps with the version what its run left, and writes its card: `card/card.html`, `card.md`, its description.

    Args:
        name: `name/version`, made of the model in `config.run_dir`.
        config: what it was trained with.

    Raises:
        ValueError: if there is no such version, or a file of the run is broken.
        ConnectionError: if MLflow is out of reach.
    """
    uri = tracking_uri(config.tracking)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        collect(config, folder)
        dossier = read_dossier(name, Path(config.run_dir, "model"), folder)
        card = make_card(dossier, lineage(name, uri=uri), config.tracking.card)
        (folder / CARD_HTML).write_text(html(card, dossier.evaluation), encoding="utf-8")
        (folder / CARD_MARKDOWN).write_text(markdown(card), encoding="utf-8")
        attach(name, folder, description=description(card, most=MOST_DESCRIPTION), uri=uri)

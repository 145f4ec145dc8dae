"""The command that answers over HTTP."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from detcore.cli.commands import Commands

if TYPE_CHECKING:
    from detcore.serving import ServingSettings

_SERVE = """\
  detcore serve digits-mask-rcnn@champion
  curl -F image=@scene.jpg 'http://127.0.0.1:8000/predict?score=0.7'
  detcore serve digits.onnx --local --port 9000
  detcore serve digits-mask-rcnn/3 --replicas 4 --device cuda --max-batch 16 --host 0.0.0.0 --token-file token.txt"""


def declare(commands: Commands) -> None:
    """Adds the command."""
    serve = commands.add("serve", "answer over HTTP what is in images", _serve, examples=_SERVE)
    serve.add_argument("model", metavar="MODEL", help="a registered name, a published folder, or an exported file")
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets others in (default: this machine alone)")
    serve.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    serve.add_argument("--local", action="store_true", help="in this process, without Ray")
    serve.add_argument("--replicas", type=int, default=1, help="copies of the model, with Ray (default: 1)")
    serve.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    serve.add_argument("--max-batch", type=int, default=8, help="images looked at together (default: 8)")
    serve.add_argument(
        "--max-wait-ms", type=float, default=5.0, help="how long an idle model waits for a second image (default: 5)"
    )
    serve.add_argument("--max-queue", type=int, default=64, help="requests at a time; more are refused (default: 64)")
    serve.add_argument("--max-bytes", type=int, default=20_000_000, help="of an image file (default: 20000000)")
    serve.add_argument("--max-pixels", type=int, default=25_000_000, help="of an image (default: 25000000)")
    serve.add_argument(
        "--timeout-seconds",
        type=float,
        default=30.0,
        help="for a request to arrive, and again for its answer (default: 30)",
    )
    serve.add_argument(
        "--url-host", metavar="HOST", action="append", default=[], help="fetch images from there; once for each"
    )
    serve.add_argument("--token-file", metavar="FILE", type=Path, help="requests must bring the token in it")


def _serve(options: argparse.Namespace) -> None:
    if options.replicas < 1:
        raise ValueError(f"--replicas {options.replicas} is less than 1")
    if options.local and options.replicas != 1:
        raise ValueError(f"--replicas {options.replicas}: --local is one, in this process; leave one of them out")
    settings = _settings(options)
    if options.host not in ("127.0.0.1", "::1", "localhost") and not settings.token_sha256:
        print(f"whoever reaches {options.host} is answered: --token-file asks for a token", flush=True)

    def listening(address: str) -> None:
        print(f"{settings.shown_name} answers at {address}; Ctrl-C ends it", flush=True)

    if options.local:
        from detcore.serving.running import serve_here

        serve_here(settings, host=options.host, port=options.port, on_listening=listening)
    else:
        from detcore.launch.serving import serve_on_ray

        copies = "one replica" if options.replicas == 1 else f"{options.replicas} replicas"
        print(f"starting {copies} with Ray", flush=True)
        serve_on_ray(settings, replicas=options.replicas, host=options.host, port=options.port, on_listening=listening)
    print("stopped", flush=True)


def _settings(options: argparse.Namespace) -> "ServingSettings":
    """What is asked for."""
    from pydantic import ValidationError

    from detcore.serving import ServingSettings, sha256_of

    try:
        settings = ServingSettings(
            model=options.model,
            name=_name_of(options.model),
            device=options.device,
            max_batch=options.max_batch,
            max_wait_ms=options.max_wait_ms,
            max_queue=options.max_queue,
            max_bytes=options.max_bytes,
            max_pixels=options.max_pixels,
            timeout_seconds=options.timeout_seconds,
            url_hosts=tuple(host.lower() for host in options.url_host),
            token_sha256="" if options.token_file is None else sha256_of(options.token_file.read_text().strip()),
        )
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(f"--{str(fault['loc'][0]).replace('_', '-')}: {fault['msg']}, got {fault['input']}") from None
    return settings


def _name_of(model: str) -> str:
    """What clients are told: of a path only what is no business of the machine's."""
    path = Path(model)
    if not path.exists():
        return model
    return path.absolute().parent.name if path.name == "model" else path.stem

"""`casam predict`: one image and one prompt -> a mask at the image's size, and a picture of it."""

from __future__ import annotations

from pathlib import Path

import typer

from casam_cache.errors import OptionError
from casam_cli import console


def predict(
    image: Path = typer.Argument(..., help="The image: any file that can be read as one."),
    box: str | None = typer.Option(None, help="A box x0,y0,x1,y1 in pixels of the image."),
    point: list[str] = typer.Option(
        [], help="A point x,y in pixels of the image. It may be given several times."
    ),
    run: Path | None = typer.Option(
        None,
        help="The folder of a fit, or of a routed model of casam bench. Without it, the frozen SAM is used.",
    ),
    model: str | None = typer.Option(None, help="The backbone of the frozen SAM. A run names its own."),
    checkpoint: Path | None = typer.Option(
        None, help="The backbone's checkpoint, if it is not where it was."
    ),
    store: Path | None = typer.Option(
        None, help="The folder of stores the run was fitted from, if it moved."
    ),
    out: Path = typer.Option(
        Path("mask.png"), help="The mask to write (PNG, 0 and 255). An overlay goes beside it."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace files that exist."),
    device: str = typer.Option("auto", help="Where to compute: auto, cpu, cuda, cuda:N or mps."),
    trust: bool = typer.Option(
        False,
        "--trust",
        help="Run the Python files that the run brings. Read them first if they are not yours.",
    ),
    json_: bool = console.JsonOption,
) -> None:
    """Segment one image with a fitted head or the frozen SAM."""
    corners = None if box is None else _box(box)
    points = [_point(text) for text in point]
    picture = out.with_name(f"{out.stem}_overlay.png")
    for path in (out, picture):
        if path.exists() and not overwrite:
            raise OptionError(f"{path} exists", "choose another --out, or give --overwrite")
    if out.suffix.lower() != ".png":
        raise OptionError(f"--out {out}: masks are written as PNG", "give a name that ends in .png")
    if not out.parent.is_dir():
        raise OptionError(f"--out {out}: the folder {out.parent} does not exist")

    from casam_cache.bench.predict import Predictor
    from casam_cache.report.pictures import save_prediction

    predictor = Predictor(run, model=model, checkpoint=checkpoint, store=store, device=device, trust=trust)
    prediction = predictor.predict(image, box=corners, points=points or None)
    save_prediction(prediction, out, picture, box=corners, points=points)
    height, width = prediction.mask.shape
    report = {
        "image": str(image),
        "mask": str(out),
        "overlay": str(picture),
        "head": prediction.head,
        "task": prediction.task,
        "predicted_iou": prediction.predicted_iou,
        "area": int(prediction.mask.sum()),
        "height": height,
        "width": width,
    }
    decision = prediction.decision
    if decision is not None:
        report["routing"] = {
            "task": decision.task,
            "nearest": decision.nearest,
            "score": decision.score,
            "threshold": decision.threshold,
            "fallback": decision.fallback,
            "scores": decision.scores,
        }
    if json_:
        console.print_json(report)
        return
    if decision is not None:
        sides = f"score {decision.score:.4g}, threshold {decision.threshold:.4g}"
        where = "to none: the frozen SAM" if decision.fallback else f"to {decision.task}"
        console.show_line(f"routed {where} (nearest task {decision.nearest}, {sides})")
    by = f"{prediction.head} of {prediction.task}" if prediction.task else "the frozen SAM"
    share = 100 * prediction.mask.mean()
    console.show_line(
        f"{out}: {share:.1f} % of the image, predicted IoU {prediction.predicted_iou:.2f}, by {by}"
    )
    console.show_line(f"{picture}: the mask over the image")


def _box(text: str) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = _numbers("--box", text, 4)
    return x0, y0, x1, y1


def _point(text: str) -> tuple[float, float]:
    x, y = _numbers("--point", text, 2)
    return x, y


def _numbers(option: str, text: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise OptionError(f"{option} {text}: expected {count} numbers with commas between")
    return numbers

"""`casam demo`: the main job on what the package ships."""
from pathlib import Path
import typer
from casam_cli import console
def demo(out: Path = typer.Option(Path("casam_demo"), help="Folder to work in.")) -> None:
    """Draw phantoms, encode them, fit each task, print the table and draw pictures."""

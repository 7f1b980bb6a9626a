"""`sciguide report PATH`: one self-contained HTML file with pictures of an ensemble."""

from pathlib import Path

from sciguide.cli.parser import call


def run(argv: list[str]) -> int:
    command = ["sciguide", "report", *argv]

    def report(path: str, out: str | None = None, run: str | None = None, evaluation: str | None = None) -> int:
        """Write a page of members, mean, spread, residuals and the policy's choices; it replaces an earlier one.

        Args:
            path: a folder of members that `sciguide generate` wrote
            out: the file; report.html in that folder if left out
            run: the run's folder, or its model.pt, where the ensemble does not lie in it
            evaluation: numbers that `sciguide evaluate --json` wrote; those in the ensemble's folder if left out
        """
        from sciguide.ensemble_page import write_ensemble_page

        folder = Path(path)
        if not folder.is_dir():
            raise FileNotFoundError(2, "no such folder of members", path)
        file = Path(out) if out else folder / "report.html"
        print(f"report: {write_ensemble_page(folder, run, evaluation, file, command)}")
        return 0

    return call(report, argv, "sciguide report")

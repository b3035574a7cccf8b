"""`python -m model_builder COMMAND`: starts `commands`, once it is sure that the builder's packages are there."""

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 when done, 1 for an error that is told on stderr, 130 when interrupted."""
    try:
        from model_builder.commands.main import main as run  # takes seconds, in which Ctrl-C is possible

        return run(arguments)
    except ModuleNotFoundError as error:
        print(
            f"error: {error}: the builder's packages are not installed. `make evaluate`, `make train` and others "
            "install them, or pip install '.[build]' in the repository",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("stopped, and nothing more was published; the same command goes on where it can", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

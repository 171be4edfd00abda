"""`python -m grokking` and the console script `grokking`: exit codes and nothing else."""

import sys


def main() -> None:
    """Run the command line; bad input exits with 2 and one sentence, an interrupt with 130 or 143."""
    from grokking.errors import BadInput, Interrupted

    try:
        from grokking.cli import command_line

        code = command_line(sys.argv[1:])
    except BadInput as error:
        print(f"grokking: {error}", file=sys.stderr)
        code = 2
    except Interrupted as stop:
        print(f"\ngrokking: stopped. Finished cohorts are stored; {stop.again}", file=sys.stderr)
        code = stop.code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        sys.stderr.close()
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()

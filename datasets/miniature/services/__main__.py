"""Start a local Earth Engine over a procedural world, and print its address for --ee_url.

python -m datasets.miniature.services --port 8080

It runs until Ctrl-C.
"""

import errno
from collections.abc import Sequence

from utils.cli import run
from utils.errors import UserError
from utils.flags import Parser, check_fraction, check_not_negative


def main(argv: Sequence[str] | None = None) -> None:
    """Answer requests until a signal comes."""
    parser = Parser(__doc__, prog="python -m datasets.miniature.services")
    add = parser.add_argument
    add("--port", type=int, default=0, help="Port on 127.0.0.1; 0 chooses a free one.")
    add("--latency", type=float, default=0.0, help="Seconds by which each answer is delayed.")
    add("--fault_share", type=float, default=0.0, help="Share of the requests that fail, in 0..1.")
    add("--cheap_pixels", action="store_true", help="Send the same pixels for all scenes.")
    args = parser.parse_args(argv)
    check_not_negative(args, "port", "latency")
    check_fraction("fault_share", args.fault_share, or_zero=True)
    from datasets.miniature.services.earth_engine import EarthEngineServer
    from datasets.miniature.services.faults import FaultPlan

    try:
        server = EarthEngineServer(
            latency_s=args.latency,
            fault_plan=FaultPlan(args.fault_share),
            is_cheap=args.cheap_pixels,
            port=args.port,
        )
    except OverflowError as error:
        raise UserError(f"--port {args.port} is more than 65535") from error
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise UserError(f"--port {args.port} is in use: choose another") from error
    print(server.url, flush=True)  # the only line
    server.serve_forever()


if __name__ == "__main__":
    run(main)

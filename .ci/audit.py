"""Compare the installed packages with the known vulnerabilities, by pip-audit: ``make audit``."""

import json
import subprocess
import sys
import sysconfig


def main() -> int:
    """Print what is known; return 1 if there is a vulnerability, 0 also if nothing can be known."""
    audit = ["pip-audit", "--path", sysconfig.get_path("purelib"), "--format", "json"]
    command = [sys.executable, "-m", "uv", "tool", "run", "--quiet", *audit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:  # it reports no packages without its service
        reason = (done.stderr.strip().splitlines() or ["pip-audit printed nothing"])[-1]
        print(f"audit skipped: {reason}")
        return 0
    audited = [package for package in packages if "vulns" in package]
    found = [(package, hole) for package in audited for hole in package["vulns"]]
    for package, hole in found:
        names = ", ".join([hole["id"], *hole["aliases"]])
        fixed = ", ".join(hole["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {names}; closed in {fixed}")
    if audited:
        print(f"audited {len(audited)} of {len(packages)} packages: {len(found)} vulnerabilities")
    else:
        print(f"audit skipped: the service answered for none of {len(packages)} packages")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

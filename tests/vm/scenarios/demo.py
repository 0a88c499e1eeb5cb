"""The requests of `make demo`: a user and root request the same modules, with the default policy."""

from guest import Guest

REQUESTS = (
    ("AF_ALG", "af_alg", 38, 5, 0),
    ("SCTP", "sctp", 2, 5, 132),
    ("a module marked in its .modinfo", "smp_marked", 21, 1, 0),
)


def main(guest: Guest) -> list[dict]:
    """Make the requests and return a row for each, in order."""
    done = guest.sh("safe-modprobectl enable --runtime")
    rows = []
    for request, module, family, kind, protocol in REQUESTS:
        for name, uid in (("user", 1000), ("root", 0)):
            if done.returncode:
                raise RuntimeError(done.stderr)
            guest.run_as(uid, lambda f=family, k=kind, p=protocol: guest.ask_socket(f, k, p))
            record = guest.log()[-1]
            rows.append(
                {
                    "who": f"{name} (uid {uid})",
                    "what": request,
                    "verdict": record.partition(" ")[0],
                    "origin": record.partition(" [")[2].partition("]")[0],
                    "module": module,
                    "loaded": module in guest.modules(),
                    "record": record,
                }
            )
    return rows

import os
import re

import dnf


class Guard(dnf.Plugin):
    name = "gpufleet"

    def __init__(self, base, cli):
        super().__init__(base, cli)
        self.base = base

    def sack(self):
        for name in os.environ["LEAVE"].split():
            if self.base.sack.query().installed().filter(name=name).run():
                self.base.remove(name)

    def resolved(self):
        wanted = set(os.environ["WANTED"].split())
        names = {entry.partition("=")[0] for entry in wanted}
        may_go = set(os.environ["MAY_GO"].split())
        also = set(os.environ["ALSO"].split())
        coming = list(self.base.transaction.install_set)
        going = {package.name for package in self.base.transaction.remove_set}
        going -= {package.name for package in coming}
        said = ["it would remove " + name for name in sorted(going - may_go)]
        for package in coming:
            evr = package.evr[2:] if package.evr.startswith("0:") else package.evr
            if package.name + "=" + evr in wanted or package.name in also:
                continue
            if package.name in may_go and package.version == os.environ["MAY_BE"]:
                continue
            here = self.base.sack.query().installed().filter(name=package.name)
            if re.search(os.environ["THEIRS"], package.name) and here.run():
                said.append(
                    "it would change %s, which belongs to the RDMA stack" % package.name
                )
            if package.name in names or re.search(os.environ["GPU"], package.name):
                said.append(
                    "it would put %s at %s, which is not in the lock" % (package.name, evr)
                )
        if said:
            with open(os.environ["REFUSED"], "w") as file:
                file.write("".join(line + "\n" for line in said))
            raise dnf.exceptions.Error("gpufleet refuses this transaction")

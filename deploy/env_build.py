"""The shell side of building a Python environment: uv, wheels by hash, import check, manifest.

Nothing of a build is seen before it is whole: it grows in `<prefix>/envs/.build-<id>.<nonce>` as a
relocatable environment and gets its final name by one rename. A lock on the host makes a build
wait for one whose controller has died but which still runs.
"""

from deploy.fleet.spec import NodeSpec
from deploy.probe import MANIFEST_COMMAND
from deploy.shell import assign
from deploy.stack import TorchEnvironment

LOCK_S = 1200
"""How long a build waits for another one on the same host."""
NEARLY_FULL_KIB = 1 << 20
"""With less free space than this a failed build does not keep its downloads for the next try."""

_PREAMBLE = f"""\
envs=$prefix/envs
mkdir -p "$envs" "$prefix/tools"
chmod 755 "$prefix" "$envs" "$prefix/tools"
cd /
exec 9>>"$envs/.lock"
if ! flock -n 9; then
    echo "waiting for another build on this host (lock $envs/.lock)"
    if ! flock -w {LOCK_S} 9; then
        echo "another build still holds $envs/.lock after {LOCK_S} s; look with:" \\
            "fuser -v $envs/.lock" >&2
        exit 1
    fi
fi
"""

TIDY = """\
rm -rf "$envs"/.build-*
"""
"""What a build that was killed has left; nobody else builds while the lock is held."""

BUILD = f"""\
rm -rf "$envs"/.build-*
build=$envs/.build-$id.$$
final=$envs/$id
cleanup() {{
    rm -rf "$envs"/.build-*
    free=$(df -Pk "$prefix" | awk 'NR == 2 {{ print $4 }}')
    if [ "${{free:-0}}" -lt {NEARLY_FULL_KIB} ]; then rm -rf "$prefix/cache"; fi
}}
trap cleanup EXIT
trap 'exit 143' HUP INT TERM
cat >"$build.txt"

tool=$prefix/tools/uv-$uv_version
uv=$tool/bin/uv
case "$("$uv" --version 2>/dev/null || :)" in
    "uv $uv_version" | "uv $uv_version "*) ;;
    *)
        echo "installing uv $uv_version"
        rm -rf "$tool"
        /usr/bin/python3 -m venv "$tool"
        printf '%s\\n' "$uv_requirement" >"$build.uv"
        "$tool/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check \\
            --no-deps --require-hashes --only-binary :all: -r "$build.uv"
        ;;
esac

export UV_CACHE_DIR="$prefix/cache" UV_LINK_MODE=hardlink UV_NO_PROGRESS=1 UV_HTTP_TIMEOUT=300
export UV_PYTHON_INSTALL_DIR="$prefix/python"
case "$(/usr/bin/python3 -V 2>/dev/null || :)" in
    "Python $python."*) interpreter=/usr/bin/python3 ;;
    *) interpreter=$python ;;
esac
"$uv" venv --quiet --relocatable --python "$interpreter" "$build"
"$uv" pip sync --python "$build/bin/python" --require-hashes --only-binary :all: \\
    --index-strategy unsafe-best-match "$build.txt"
"$uv" pip check --python "$build/bin/python"

echo "importing torch"
found=$(env -i PATH="$PATH" HOME=/ timeout 300 "$build/bin/python" -I -c \\
    'import torch; print(torch.__version__)') || {{
    echo "torch was installed but cannot be imported; the current environment stays" >&2
    exit 1
}}
if [ "${{found%%+*}}" != "$torch" ]; then
    echo "torch says it is $found, wanted $torch; the current environment stays" >&2
    exit 1
fi
mv "$build.txt" "$build/gpufleet-requirements.txt"
chmod -R u+rwX,go+rX,go-w "$build"
(cd "$build" && {MANIFEST_COMMAND}) >"$build.sum"
mv "$build.sum" "$build/.gpufleet-manifest"
chmod 644 "$build/.gpufleet-manifest"
sync -f "$build"
"""
"""Expects `preamble`'s lock and values, and the requirements on standard input."""

PLACE = """\
if [ -e "$final" ]; then mv -T "$final" "$final.old-$$"; fi
mv -T "$build" "$final"
find "$prefix/tools" -mindepth 1 -maxdepth 1 -name 'uv-*' ! -name "uv-$uv_version" \\
    -exec rm -rf {} +
rm -rf "$prefix/cache" "$envs"/.build-*
for old in "$final".old-*; do
    [ -d "$old" ] || continue
    grep -lsF "$old/" /proc/[0-9]*/maps | grep -q . || rm -rf "$old"
done
"""
"""A damaged environment of the same id steps aside, and goes as soon as nobody uses it."""


def preamble(values: str) -> str:
    """Folders and the build lock; `values` are the assignments the other parts expect."""
    return values + _PREAMBLE


def network(spec: NodeSpec, environment: TorchEnvironment) -> str:
    """Where wheels come from and how the host gets there, for pip and uv alike.

    Places that the spec does not name stay as the host has configured them. Certificates are the
    host's own unless a bundle is named.
    """
    exports = {"UV_SYSTEM_CERTS": "true"}
    if spec.proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            exports[name] = spec.proxy
    if spec.ca_bundle:
        for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"):
            exports[name] = spec.ca_bundle
    if environment.index:
        exports["PIP_INDEX_URL"] = exports["UV_DEFAULT_INDEX"] = environment.index
    if environment.torch_index:
        exports["UV_INDEX"] = environment.torch_index
    if environment.find_links:
        exports["PIP_FIND_LINKS"] = " ".join(environment.find_links)
        exports["UV_FIND_LINKS"] = ",".join(environment.find_links)
    return assign(**exports) + f"export {' '.join(exports)}\n"

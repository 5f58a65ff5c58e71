"""The shell side of a Python environment: uv or pip, wheels by hash, import check, manifest.

Nothing of a build is seen before it is whole: it grows in `<prefix>/envs/.build-<id>.<nonce>` as a
relocatable environment and gets its final name by one rename. A lock on the host makes a build
wait for one whose controller has died but which still runs.
"""

from deploy.fleet.spec import NodeSpec
from deploy.probing.probe import MANIFEST_COMMAND
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

START = f"""\
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
install_wheels() {{
    if "$@" >"$build.said" 2>&1; then cat "$build.said"; return; fi
    cat "$build.said" >&2
    cut -d ' ' -f 1 "$build.txt" | while read -r pin; do
        if grep -qiF -e "$pin" -e "Because ${{pin%%==*}} was not found" "$build.said"; then
            echo "the locked wheel $pin cannot be had as it was locked; next:" \\
                "gpufleet lock INVENTORY --upgrade extras (or torch)" >&2
        fi
    done
    exit 1
}}
"""
"""Expects `preamble`'s lock and values, and the requirements on standard input."""

TOOL = """\
tool=$prefix/tools/uv-$uv_version
uv=$tool/bin/uv
case "$("$uv" --version 2>/dev/null || :)" in
    "uv $uv_version" | "uv $uv_version "*) ;;
    *)
        echo "installing uv $uv_version"
        rm -rf "$tool"
        maker=
        for one in /usr/bin/python3 /usr/bin/python3.[0-9] /usr/bin/python3.[0-9][0-9]; do
            if "$one" -c 'import ensurepip' 2>/dev/null; then maker=$one; break; fi
        done
        if [ -z "$maker" ]; then
            echo "no python3 in /usr/bin can make virtual environments, which brings uv" >&2
            exit 1
        fi
        "$maker" -m venv "$tool"
        printf '%s\\n' "$uv_requirement" >"$tool/requirement.txt"
        # Downloaded for a named platform and unpacked: the pip 9 of Python 3.6 does not know the
        # platform of uv's wheel as its own, and would not install it.
        "$tool/bin/python" -m pip download --quiet --no-cache-dir --disable-pip-version-check \\
            --no-deps --require-hashes --only-binary :all: --dest "$tool/wheel" \\
            --platform "manylinux2014_$(uname -m)" -r "$tool/requirement.txt"
        "$tool/bin/python" -m zipfile -e "$tool/wheel"/uv-*.whl "$tool/wheel"
        mv "$tool/wheel/uv-$uv_version.data/scripts/uv" "$tool/bin/uv"
        chmod 755 "$tool/bin/uv"
        rm -rf "$tool/wheel"
        ;;
esac
export UV_CACHE_DIR="$prefix/cache" UV_LINK_MODE=hardlink UV_NO_PROGRESS=1 UV_HTTP_TIMEOUT=300
"""
"""uv itself, by hash."""

INTERPRETER = """\
case "$(/usr/bin/python3 -V 2>/dev/null || :)" in
    "Python $python."*) interpreter=/usr/bin/python3 ;;
    *) interpreter=/usr/bin/python$python ;;
esac
if [ -n "$python_folder" ]; then interpreter=$prefix/python/$python_folder; fi
if ! [ -x "$interpreter" ]; then
    echo "Python $python is wanted, and there is no $interpreter" >&2
    exit 1
fi
"""

WITH_UV = """\
"$uv" venv --quiet --relocatable --no-python-downloads --python "$interpreter" "$build"
install_wheels "$uv" pip sync --python "$build/bin/python" --require-hashes \
    --only-binary :all: --index-strategy unsafe-best-match "$build.txt"
"$uv" pip check --python "$build/bin/python"
"""

WITH_VENV = """\
"$interpreter" -m venv "$build"
export PIP_ROOT_USER_ACTION=ignore
pip() { "$build/bin/python" -m pip --no-cache-dir --disable-pip-version-check "$@"; }
# Compiled files would name the place of the build.
install_wheels pip install --quiet --no-compile --no-deps --require-hashes --only-binary :all: \
    -r "$build.txt"
pip check
for tool in setuptools pip; do
    # what venv itself brings and the lock does not name; pip goes last
    grep -q "^$tool==" "$build.txt" || pip uninstall --quiet --yes "$tool"
done
# venv writes its own place into scripts, and this is not the one where they will be run
grep -IlrF -- "$build" "$build/bin" "$build/pyvenv.cfg" | while read -r file; do
    sed -i "s|$build|$final|g" "$file"
done
"""

FINISH = f"""\
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


PYTHON = f"""\
place=$prefix/python/$folder
aside=$prefix/python/$folder.old-$$
list=$prefix/python/.list-$$.json
mkdir -p "$prefix/python"
chmod 755 "$prefix/python"
back() {{
    rm -rf "$list" "$prefix/cache"
    if ! [ -e "$place/.gpufleet-manifest" ]; then
        rm -rf "$place"
        if [ -e "$aside" ]; then mv -T "$aside" "$place"; fi
    fi
}}
trap back EXIT
trap 'exit 143' HUP INT TERM
cat >"$list"
if [ -e "$place" ]; then mv -T "$place" "$aside"; fi
set -- "$key"
if [ -s "$list" ]; then set -- "$@" --python-downloads-json-url "$list"; fi
echo "installing Python $version"
"$uv" python install --no-bin --install-dir "$place" "$@" || {{
    echo "Python $key could not be had from $url${{sha256:+, wanted sha256 $sha256}}; next:" \\
        "gpufleet lock INVENTORY --upgrade python" >&2
    exit 1
}}
found=$("$place/$key/bin/python$minor" -I -c 'import platform; print(platform.python_version())')
if [ "$found" != "$version" ]; then
    echo "Python from $url says it is $found, wanted $version" >&2
    exit 1
fi
rm -rf "$place/.temp" "$place/.lock" "$place/.gitignore"
chmod -R u+rwX,go+rX,go-w "$place"
(cd "$place" && {MANIFEST_COMMAND}) >"$list"
chmod 644 "$list"
sync -f "$place"
mv "$list" "$place/.gpufleet-manifest"
for old in "$place".old-*; do
    [ -d "$old" ] || continue
    grep -lsF "$old/" /proc/[0-9]*/maps | grep -q . || rm -rf "$old"
done
"""
"""A Python that uv brings; expects `TOOL` before it and the list of downloads on standard input.

It is installed where it stays, for its own files name their place; the manifest says that it is
whole. One that is damaged steps aside, for a process may run on it."""


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
        if environment.kind == "venv":
            exports["PIP_EXTRA_INDEX_URL"] = environment.torch_index
    if environment.find_links:
        exports["PIP_FIND_LINKS"] = " ".join(environment.find_links)
        exports["UV_FIND_LINKS"] = ",".join(environment.find_links)
    return assign(**exports) + f"export {' '.join(exports)}\n"

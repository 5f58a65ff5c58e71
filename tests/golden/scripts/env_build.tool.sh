tool=$prefix/tools/uv-$uv_version
uv=$tool/bin/uv
case "$("$uv" --version 2>/dev/null || :)" in
    "uv $uv_version" | "uv $uv_version "*) ;;
    *)
        echo "installing uv $uv_version"
        rm -rf "$tool"
        for maker in /usr/bin/python3 /usr/bin/python3.[0-9] /usr/bin/python3.[0-9][0-9]; do
            # 3.6 brings a pip that does not know today's names of platforms
            if "$maker" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 8))'                 2>/dev/null; then break; fi
        done
        "$maker" -m venv "$tool"
        printf '%s\n' "$uv_requirement" >"$tool/requirement.txt"
        "$tool/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check \
            --no-deps --require-hashes --only-binary :all: -r "$tool/requirement.txt"
        ;;
esac
export UV_CACHE_DIR="$prefix/cache" UV_LINK_MODE=hardlink UV_NO_PROGRESS=1 UV_HTTP_TIMEOUT=300

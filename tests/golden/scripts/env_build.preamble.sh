envs=$prefix/envs
mkdir -p "$envs" "$prefix/tools"
chmod 755 "$prefix" "$envs" "$prefix/tools"
cd /
exec 9>>"$envs/.lock"
if ! flock -n 9; then
    echo "waiting for another build on this host (lock $envs/.lock)"
    if ! flock -w 1200 9; then
        echo "another build still holds $envs/.lock after 1200 s; look with:" \
            "fuser -v $envs/.lock" >&2
        exit 1
    fi
fi

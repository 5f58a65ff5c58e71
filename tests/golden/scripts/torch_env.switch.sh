if ! [ -e "$prefix/envs/$id/.gpufleet-manifest" ]; then
    echo "$prefix/envs/$id is not complete; the current environment stays" >&2
    exit 1
fi
before=$(readlink "$prefix/env" || :)
before=${before##*/}
if [ -n "$before" ] && [ "$before" != "$id" ]; then record environment_previous "$before"; fi
new=$(mktemp -u "$prefix/.env.XXXXXX")
ln -s "envs/$id" "$new"
mv -fT "$new" "$prefix/env"

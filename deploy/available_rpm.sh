# Which versions does a repository of rpms offer? Fetched with curl into a temporary directory that
# is removed at the end; dnf and its caches are not touched, and no root is needed. What is fetched
# is judged by the controller: signature, digests and packages. The controller puts assignments of
# url, key_url, proxy and ca_bundle, and available_head.sh, before this text.
command -v curl >/dev/null || refuse curl

# The host's own way to the network, as dnf would take it, unless the inventory names another.
setting() {
    sed -n "s/^[[:space:]]*$1[[:space:]]*=[[:space:]]*//p" /etc/dnf/dnf.conf /etc/yum.conf \
        2>/dev/null | head -n 1
}
[ -n "$proxy" ] || proxy=$(setting proxy)
[ -n "$ca_bundle" ] || ca_bundle=$(setting sslcacert)
fetch() { # ADDRESS FILE BYTES
    curl -fsSL --proto '=http,https,file' --connect-timeout 20 --max-time 120 --retry 1 \
        --max-filesize "$3" ${proxy:+--proxy "$proxy"} ${ca_bundle:+--cacert "$ca_bundle"} \
        -o "$2" -- "$1" >"$work/log" 2>&1 || return 1
    [ -f "$2" ] || : >"$2" # an empty answer
    [ "$(wc -c <"$2")" -le "$3" ] || { echo "larger than $3 bytes" >"$work/log"; return 1; }
}
place_of() { # KIND: where the index says that a part of it lies
    tr -d '\n' <"$work/repomd" | sed 's/<data /\n<data /g' |
        sed -n "/^<data [^>]*type=\"$1\"/s/.*<location [^>]*href=\"\([A-Za-z0-9_.\/+-]*\)\".*/\1/p" |
        head -n 1
}

fetch "$key_url" "$work/key" 65536 || refuse key
fetch "$url/repodata/repomd.xml" "$work/repomd" 1000000 || refuse update
# The vendor's own configuration does not ask for this signature, so a repository may lack it.
fetch "$url/repodata/repomd.xml.asc" "$work/signature" 65536 || : >"$work/signature"
for kind in primary modules; do
    place=$(place_of "$kind")
    case $place in
        '') : >"$work/$kind"; continue ;;
        /* | *..*) echo "the index points to $place" >"$work/log"; refuse update ;;
    esac
    fetch "$url/$place" "$work/$kind" 64000000 || refuse update
done

for part in key repomd signature primary modules; do
    echo "part $part"
    base64 "$work/$part"
done
echo "gpufleet-available end"

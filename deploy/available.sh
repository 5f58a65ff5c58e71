# Which versions does a package repository offer, and if asked, the host's own sources? Asked through
# this host's apt, changing nothing outside the temporary directory. Needs no root. The controller
# puts assignments of url, key_url, proxy, ca_bundle, own and INTEREST, and available_head.sh, before
# this text.
unset APT_CONFIG
umask 022
chmod 711 "$work"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/state"
: >"$work/status"
command -v apt-get >/dev/null || refuse apt

# The host's own way to the network stays (proxies, certificates); its sources, pins, hooks and
# relaxed checks do not count here.
{
    apt-config dump | grep -E '^Acquire::(https?|ForceIPv[46])\b'
    cat <<EOF
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "/dev/null";
Dir::State "$work/state";
Dir::State::lists "$work/lists";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
#clear Acquire::Languages;
Acquire::Languages "none";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Check-Date "true";
Acquire::Check-Valid-Until "true";
Acquire::GzipIndexes "false";
Acquire::PDiffs "false";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
APT::Update::Error-Mode "any";
EOF
    if [ -n "$proxy" ]; then
        echo "Acquire::http::Proxy \"$proxy\";"
        echo "Acquire::https::Proxy \"$proxy\";"
    fi
    if [ -n "$ca_bundle" ]; then
        echo "Acquire::https::CAInfo \"$ca_bundle\";"
    fi
} >"$work/apt.conf"
APT_CONFIG=$work/apt.conf
export APT_CONFIG

if ! /usr/lib/apt/apt-helper download-file "$key_url" "$work/key" >"$work/log" 2>&1; then
    refuse key
fi
size=$(wc -c <"$work/key")
[ "$size" -le 65536 ] || { echo "$size bytes" >"$work/log"; refuse key-size; }
# apt reads an armoured key under the name .asc and a binary one under .gpg.
case $(head -c 5 "$work/key" | tr -d '\0') in
    -----) key=$work/key.asc ;;
    *) key=$work/key.gpg ;;
esac
mv "$work/key" "$key"
chmod 644 "$key"
echo "deb [signed-by=$key] $url/ /" >"$work/sources.list"

apt-get -q update >"$work/log" 2>&1 || refuse update
found=
for file in "$work"/lists/*_Packages; do
    [ -f "$file" ] && found=$file
done
[ -n "$found" ] || refuse update

listed() { # FILE...: the fields that matter, of the packages whose names match WANTED
    awk '
    BEGIN {
        n = split("Package Version Architecture Depends Pre-Depends Provides Conflicts Breaks Size", f)
        for (i = 1; i <= n; i++) want[f[i]] = 1
    }
    FNR == 1 && NR > 1 { print "" }
    /^Package:/ { mine = $2 ~ ENVIRON["WANTED"] }
    /^$/ { if (mine) print; keep = 0; next }
    /^[^ \t]/ { keep = (substr($0, 1, index($0, ":") - 1) in want) }
    keep && mine' "$@" | gzip -9 | base64
}

# The host's own sources, as it has them: its own keys, pins and ways there. Only what its
# distribution signs under its own name counts; a vendor's mirror among them does not.
own_lists() {
    {
        env -u APT_CONFIG apt-config dump |
            grep -E '^Acquire::(https?|ForceIPv[46]|Allow|Check)'
        cat <<EOF
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::State "$work/state";
Dir::State::lists "$work/own";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
#clear Acquire::Languages;
Acquire::Languages "none";
Acquire::GzipIndexes "false";
Acquire::PDiffs "false";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Acquire::IndexTargets::deb::CNF::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
EOF
    } >"$work/own.conf"
    APT_CONFIG=$work/own.conf
    mkdir -p "$work/own/partial"
    id=$(sed -n 's/^ID=//p' /etc/os-release | tr -d "\"'" | head -n 1)
    apt-get -q update >"$work/log" 2>&1
    # shellcheck disable=SC2016 # fields of apt, not of the shell
    apt-get indextargets --format '$(CREATED_BY) $(ORIGIN) $(FILENAME)' 2>>"$work/log" |
        awk -v id="$id" '$1 == "Packages" && tolower($2) == tolower(id) { print $3 }' |
        while read -r file; do
            [ ! -f "$file" ] || printf '%s\n' "$file"
        done
}
if [ -n "$own" ]; then
    own_lists >"$work/own.lists"
    [ -s "$work/own.lists" ] || refuse own
fi

echo "part key"
base64 "$key"
echo "part packages"
WANTED=.
export WANTED
listed "$work"/lists/*_Packages
if [ -n "$own" ]; then
    echo "part own"
    WANTED=$INTEREST
    # shellcheck disable=SC2046 # apt makes names of lists without blanks
    listed $(cat "$work/own.lists")
fi
echo "gpufleet-available end"

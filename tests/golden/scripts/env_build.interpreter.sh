case "$(/usr/bin/python3 -V 2>/dev/null || :)" in
    "Python $python."*) interpreter=/usr/bin/python3 ;;
    *) interpreter=/usr/bin/python$python ;;
esac
if [ -n "$python_folder" ]; then interpreter=$prefix/python/$python_folder; fi
if ! [ -x "$interpreter" ]; then
    echo "Python $python is wanted, and there is no $interpreter" >&2
    exit 1
fi

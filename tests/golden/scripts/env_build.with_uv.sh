"$uv" venv --quiet --relocatable --no-python-downloads --python "$interpreter" "$build"
install_wheels "$uv" pip sync --python "$build/bin/python" --require-hashes     --only-binary :all: --index-strategy unsafe-best-match "$build.txt"
"$uv" pip check --python "$build/bin/python"

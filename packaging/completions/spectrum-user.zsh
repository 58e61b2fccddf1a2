#compdef spectrum-user
# What a word may be is said by the program itself.
local -a described
local line value meaning
while IFS= read -r line; do
    value=${line%%$'\t'*}
    meaning=${line#*$'\t'}
    described+=("${value//:/\\:}${meaning:+:$meaning}")
done < <("${words[1]}" complete --index $((CURRENT - 1)) -- "${words[@]}" 2>/dev/null)
_describe -V 'spectrum-user' described

# What a word may be is said by the program itself; addresses have colons, at which bash would break words.
_spectrum_user() {
    local cur words cword value
    _get_comp_words_by_ref -n =: -c cur -w words -i cword
    COMPREPLY=()
    while IFS=$'\t' read -r value _; do
        COMPREPLY+=("$value")
    done < <("${words[0]}" complete --index "$cword" -- "${words[@]}" 2>/dev/null)
    __ltrim_colon_completions "$cur"
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == */ ]] && compopt -o nospace
    return 0
}
complete -F _spectrum_user spectrum-user

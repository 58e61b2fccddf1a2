# What a word may be is said by the program itself.
function __spectrum_user_words
    set -l words (commandline --tokenize --cut-at-cursor --current-process)
    set -l index (count $words)
    $words[1] complete --index $index -- $words (commandline --current-token --cut-at-cursor) 2>/dev/null
end
complete --command spectrum-user --no-files --arguments '(__spectrum_user_words)'

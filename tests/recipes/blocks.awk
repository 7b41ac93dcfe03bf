# blocks.awk: cuts a page of docs/recipes into steps. docs/recipes/README.md, "How these pages are read", has the rules.
#
#   awk -v directory=DIRECTORY -f blocks.awk PAGE
#
# Writes DIRECTORY/NUMBER, the text of a block, and a line for each step to DIRECTORY/steps:
#   NUMBER LINE run|write|add|copy|prints|calls MACHINE [PATH]
# LINE is that of the block's first line. An unknown kind of block ends it with status 1.

function last_quoted(text,    found) {
    while (match(text, /`[^`]*`/)) {
        found = substr(text, RSTART + 1, RLENGTH - 2)
        text = substr(text, RSTART + RLENGTH)
    }
    return found
}
function step(kind, machine, path) {
    printf "%03d %d %s %s %s\n", ++count, NR + 1, kind, machine, path >(directory "/steps")
}
function is_path(text) { return text ~ /^\/[A-Za-z0-9._\/-]+$/ }

inside && /^```$/ { inside = 0; close(file); next }
inside { print >file; next }
/^```/ {
    machine = before ~ /daemon's machine/ ? "hsm" : "app"
    if ($0 == "```sh") step("run", machine)
    else if (before ~ /^It prints/) step("prints", machine)
    else if (before ~ /^It calls/) step("calls", "hsm")
    else if (is_path(path = last_quoted(before))) step(before ~ /^Add/ ? "add" : "write", machine, path)
    else { print FILENAME ":" NR ": the line before this block does not say what it is" >"/dev/stderr"; exit failed = 1 }
    file = sprintf("%s/%03d", directory, count)
    printf "" >file
    inside = 1
    next
}
/^Copy .* on the application's machine/ {
    file = sprintf("%s/%03d", directory, count + 1)
    text = $0
    while (match(text, /`[^`]*`/)) {
        print substr(text, RSTART + 1, RLENGTH - 2) >file
        text = substr(text, RSTART + RLENGTH)
    }
    close(file)
    step("copy", "app")
}
NF { before = $0 }
END { if (!failed && inside) { print FILENAME ": a block has no end" >"/dev/stderr"; exit 1 } }

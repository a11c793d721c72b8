# SPDX-License-Identifier: GPL-2.0-or-later
# Completion for pcachectl, pcached, pcache-ublk, pcache-sweep and pcache-microbench: the programs' own help says what
# there is, so this knows no subcommand and no option.

_pcache() {
  local program=$1 word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command=() words=
  COMPREPLY=()
  [ "$COMP_CWORD" -le 1 ] || [[ ${COMP_WORDS[1]} == -* ]] || command=("${COMP_WORDS[1]}")
  if [[ $word == -* ]]; then
    words=$("$program" "${command[@]}" --help 2>/dev/null </dev/null | grep -oE -- '--[a-z][a-z0-9_-]*' | sort -u)
  elif [ ${#command[@]} = 0 ] || [ "$COMP_CWORD" = 1 ]; then
    words=$("$program" --help 2>/dev/null </dev/null |
      sed -n '/^Subcommands:/I,/^[^ ]/s/^  \([a-z][a-z-]*\) .*/\1/p')
  elif [ "${command[0]} $before" = "run run" ] && [[ $program == *pcache-sweep ]]; then
    words=$("$program" presets 2>/dev/null | cut -d ' ' -f 1)
  fi
  [ -z "$words" ] || mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
  # Then the shell's own: files.
}
complete -o default -F _pcache pcachectl pcached pcache-ublk pcache-sweep pcache-microbench

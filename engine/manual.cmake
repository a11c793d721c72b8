# SPDX-License-Identifier: GPL-2.0-or-later
# cmake -D CMARK=... -D README=... -D OUT=... -P manual.cmake
#
# Writes OUT, the manual page of the engines, from README.md.
#
# cmark gives a table columns as wide as their longest line. Here each cell becomes a text block, and the
# columns share the line. Code is bold: its font C is one that terminals have not (groff 1.23 warns).
set(cells_in_blocks [[
s/\\f\[C\]/\\f[B]/g
/^\.TS/,/^\.TE/{
  /^\.T/b
  /^tab/b
  /^c*\.$/{
    s/c/lx /g
    b
  }
  s/@/\nT}@T{\n/g
  s/.*/T{\n&\nT}/
}]])
execute_process(COMMAND ${CMARK} --to man --extension table ${README} COMMAND sed ${cells_in_blocks}
                OUTPUT_VARIABLE text COMMAND_ERROR_IS_FATAL ANY)
file(WRITE ${OUT} "'\\\" t\n.TH PCACHE_FIO 7 \"\" pcache pcache\n.ad l\n.nh\n.SH NAME\npcache_fio \\- fio's engines pcache and pcache_raw\n${text}")

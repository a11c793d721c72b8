# SPDX-License-Identifier: GPL-2.0-or-later
"""The published comparison of dm-pcache's persist methods: MiB/s by request size, one job.

Source: the public discussion of dm-pcache's flush path. tests/testdata/published_persist_methods.csv has the same
figures; a test compares the two.
"""
SIZES = ["512", "1k", "2k", "4k", "8k", "16k", "32k", "64k", "128k", "1m"]
# {(memory, rw): {method: MiB/s by size}}
TABLE = {
    ("memmap DRAM", "randwrite"): {
        "clflushopt": [200, 378, 773, 1364, 2078, 2745, 3232, 3660, 3922, 3824],
        "flushcache": [228, 431, 769, 1272, 1817, 2098, 2231, 2411, 2513, 2537]},
    ("memmap DRAM", "write"): {
        "clflushopt": [228, 439, 841, 1364, 2107, 2752, 3213, 3661, 3902, 3808],
        "flushcache": [228, 423, 800, 1308, 1838, 2166, 2247, 2415, 2514, 2529]},
    ("Optane 100", "randwrite"): {
        "clflushopt": [167, 301, 615, 967, 1047, 1096, 1155, 1184, 1199, 1178],
        "flushcache": [226, 420, 639, 1024, 1314, 1377, 1382, 1452, 1488, 1499]},
    ("Optane 100", "write"): {
        "clflushopt": [233, 424, 706, 978, 1059, 1119, 1158, 1184, 1198, 1178],
        "flushcache": [233, 391, 760, 1076, 1296, 1380, 1387, 1448, 1481, 1486]},
}

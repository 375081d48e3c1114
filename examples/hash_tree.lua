--- hash_tree.lua DIR: hashes every file below DIR, first one by one in this thread, then in thread pools.
--
-- Each file is hashed twice: by a program that a task starts and waits for (sha256sum, in the pool "IO", where
-- blocking is fine), and in plain Lua (CRC-32, in the pool "CPU", which has one worker a processor).
--
-- Worth copying into your own program: `pooled`, which keeps a bounded number of tasks in flight, and the shape of
-- `sha256` and `crc32`: a task sees its arguments and its upvalues (as copies), not the globals of this program.

local threadpool = require "threadpool"

-- Enough that no worker waits for us, few enough that a million files do not become a million tasks in memory.
local IN_FLIGHT = 64
local BAR_WIDTH = 30

-- In a worker `_OSTLS` is a global: one table per state, for what is made once and used by every task there.
-- Here it gets the same name, so that the hash functions run unchanged on both sides.
rawset(_G, "_OSTLS", threadpool._OSTLS)

--- A word for the shell, whatever is in it.
local function quote(text)
    return "'" .. text:gsub("'", "'\\''") .. "'"
end

--- All that a command prints. Blocks until it has ended.
local function shell(command)
    local pipe = assert(io.popen(command))
    local text = pipe:read "*a"
    pipe:close()
    return text
end

--- Wall-clock seconds: os.time counts whole ones, and os.clock those of the processor.
local function now()
    return tonumber(shell "date +%s.%N") or os.time()
end

--- The paths of the regular files below `dir`, and their bytes. NUL separates paths: a name may hold anything else.
-- Reads every file once, so that the disk cache is as warm for the first pass as for the last.
local function list_files(dir)
    local find = ("find %s -type f "):format(quote((dir:gsub("^%-", "./-"))))
    local text, paths, start = shell(find .. "-print0"), {}, 1
    while start <= #text do
        local stop = text:find("\0", start, true)
        paths[#paths + 1] = text:sub(start, stop - 1)
        start = stop + 1
    end
    return paths, tonumber(shell(find .. "-exec cat {} + 2>/dev/null | wc -c"))
end

-- The hash functions --------------------------------------------------------------------------------------------------

--- The SHA-256 of a file, from a program: this thread sleeps until it has ended. Raises what the shell said instead.
local function sha256(path)
    local text = shell("exec 2>&1; sha256sum <" .. quote(path))
    return text:match("^" .. ("%x"):rep(64)) or error(text:match "[^\n]*", 0)
end

--- A function for the exclusive or of two integers below 2^32, made of what this Lua has for it.
local function make_xor()
    local bits = rawget(_G, "bit") or rawget(_G, "bit32")
    if bits then
        local bxor = bits.bxor
        return function(a, b) return bxor(a, b) % 2 ^ 32 end -- LuaJIT's result is signed
    elseif _VERSION ~= "Lua 5.1" then
        return load "return function(a, b) return a ~ b end"() -- text, as older versions cannot parse it
    end
    -- Byte by byte, from a table of all pairs of bytes. The entry of a pair follows from that of the halved pair.
    local of_bytes, floor = { [0] = 0 }, math.floor
    for i = 1, 65535 do
        local a, b = floor(i / 256), i % 256
        of_bytes[i] = 2 * of_bytes[floor(a / 2) * 256 + floor(b / 2)] + (a + b) % 2
    end
    return function(a, b)
        local result, unit = 0, 1
        while a > 0 or b > 0 do
            local low_a, low_b = a % 256, b % 256
            result = result + of_bytes[low_a * 256 + low_b] * unit
            a, b, unit = (a - low_a) / 256, (b - low_b) / 256, unit * 256
        end
        return result
    end
end

--- A function that goes on with a CRC-32 over one more block of bytes.
local function make_crc()
    local xor, steps = make_xor(), {}
    for i = 0, 255 do
        local step = i
        for _ = 1, 8 do
            local odd = step % 2
            step = xor((step - odd) / 2, odd * 0xEDB88320)
        end
        steps[i] = step
    end
    return function(crc, block)
        for i = 1, #block do
            local low = crc % 256
            crc = xor(steps[xor(low, block:byte(i))], (crc - low) / 256)
        end
        return crc
    end
end

--- The CRC-32 of a file, in plain Lua. Its table is made once per state, not sent with every task.
local function crc32(path)
    _OSTLS.crc = _OSTLS.crc or make_crc()
    local file, err = io.open(path, "rb")
    local crc, block = 0xFFFFFFFF, ""
    while file and block do
        crc = _OSTLS.crc(crc, block)
        block, err = file:read(65536)
    end
    if file then file:close() end
    if err then error(err, 0) end
    return ("%08x"):format(0xFFFFFFFF - crc)
end

-- Two ways to apply one of them to every path -------------------------------------------------------------------------

--- What pcall and await give alike, as one string that can be compared.
local function outcome(ok, value)
    return ok and value or "error: " .. tostring(value)
end

--- Here, one after the other. `progress(done)` is called after each.
local function serial(hash, paths, progress)
    local results = {}
    for i, path in ipairs(paths) do
        results[i] = outcome(pcall(hash, path))
        progress(i)
    end
    return results
end

--- In a pool, IN_FLIGHT at a time: the oldest is awaited before one more is submitted.
local function pooled(hash, paths, progress, pool)
    local results, futures = {}, {}
    for i = 1, #paths + IN_FLIGHT do
        local oldest = i - IN_FLIGHT
        if futures[oldest] then
            results[oldest] = outcome(futures[oldest]:await())
            futures[oldest] = nil
            progress(oldest)
        end
        if paths[i] then futures[i] = pool:submit(hash, paths[i]) end
    end
    return results
end

-- What people see -----------------------------------------------------------------------------------------------------

--- A function that draws `done` of `total` on stderr, or that does nothing where that is no terminal.
local function progress_bar(label, total)
    local status = os.execute "test -t 2" -- 0 in Lua 5.1, true since
    if status ~= 0 and status ~= true then return function() end end
    local drawn
    return function(done)
        local percent = math.floor(100 * done / total)
        if percent == drawn then return end
        drawn = percent
        local bar = ("#"):rep(math.floor(BAR_WIDTH * done / total))
        io.stderr:write(("\r%-13s [%s%s] %3d%%"):format(label, bar, ("."):rep(BAR_WIDTH - #bar), percent))
        if done == total then io.stderr:write("\r", (" "):rep(BAR_WIDTH + 21), "\r") end
    end
end

--- Runs a pass; returns its results and its seconds.
local function timed(pass, label, hash, paths, pool)
    local start = now()
    local results = pass(hash, paths, progress_bar(label, #paths), pool)
    return results, now() - start
end

--- Hashes all paths in both ways and shows what failed or differs; returns a line of the table, and its verdict.
local function compare(pool, name, hash, paths, bytes)
    local expected, before = timed(serial, name .. " serial", hash, paths)
    local got, after = timed(pooled, name .. " pooled", hash, paths, pool)
    local verdict = "identical"
    for i, path in ipairs(paths) do
        if got[i] ~= expected[i] then
            io.stderr:write(("%s: %s: %s, but %s in the pool\n"):format(name, path, expected[i], got[i]))
            verdict = "DIFFERENT"
        elseif got[i]:find "^error: " then
            io.stderr:write(("%s: %s: %s\n"):format(name, path, got[i]))
            verdict = verdict == "identical" and "identical, with errors" or verdict
        end
    end
    return ("%-4s  %-6s  %7d  %12d  %8.2f  %8.2f  %7.2fx  %s"):format(
        pool.name, name, #paths, bytes, before, after, before / after, verdict
    ), verdict
end

if not arg[1] then
    io.stderr:write "usage: hash_tree.lua DIR\n"
    os.exit(2)
end
local paths, bytes = list_files(arg[1])
if #paths == 0 then
    io.stderr:write("no files in ", arg[1], "\n")
    os.exit(1)
end
local io_line, io_verdict = compare(threadpool.pool "IO", "sha256", sha256, paths, bytes)
local cpu_line, cpu_verdict = compare(threadpool.pool "CPU", "crc32", crc32, paths, bytes)
print "pool  hash      files         bytes  serial s  pooled s  speed-up  results"
print(io_line .. "\n" .. cpu_line)
os.exit(io_verdict == "identical" and cpu_verdict == "identical" and 0 or 1)

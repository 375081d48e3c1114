--- records.lua [ROUNDS]: structured data there and back through a pool, against lua-cjson in one state.
--
-- An array of 10,000 { id, name, score }. Ours is encoded, decoded in a worker, encoded there and decoded here;
-- cjson's is encoded and decoded once, here, and goes nowhere.

local threadpool = require "threadpool"
local uv = require "luv"
local rounds = dofile((arg[0]:match "^.*/" or "") .. "rounds.lua")

local has_cjson, cjson = pcall(require, "cjson")
if not has_cjson then
    print "records: left out, there is no lua-cjson here (Debian package lua-cjson)"
    return
end

local ROUNDS = tonumber(arg[1]) or 15
local RECORDS = 10000

local pool = threadpool.fixed(1)

local records = {}
for i = 1, RECORDS do
    records[i] = { id = i, name = "record number " .. i, score = i / 7 }
end

--- Milliseconds that `there_and_back(records)` takes; what comes back must be equal, scores to ten digits (cjson's
-- default has fourteen).
local function timed(there_and_back)
    local start = uv.hrtime()
    local got = there_and_back(records)
    local ms = (uv.hrtime() - start) / 1e6
    assert(#got == RECORDS)
    for i, record in ipairs(records) do
        local other = got[i]
        assert(other.id == record.id and other.name == record.name)
        assert(math.abs(other.score - record.score) < 1e-10 * record.score)
    end
    return { ms = ms }
end

local function in_cjson()
    return timed(function(list) return cjson.decode(cjson.encode(list)) end)
end

local function in_pool()
    return timed(function(list)
        local ok, got = pool:run(function(copy) return copy end, list)
        assert(ok, got)
        return got
    end)
end

local theirs, ours = rounds.run(ROUNDS, { in_cjson, in_pool })
rounds.header(("%d records, ms (less is better)"):format(RECORDS), "cjson", "threadpool")
rounds.row("there and back, against encode and decode in one state", theirs.ms, ours.ms)

--- Random graphs of values, there and back, against an oracle: a naive deep copy made inside one state.
--
-- ORACLE_GRAPHS sets how many graphs, ORACLE_SEED which: a failure prints the seed of its graph, and
-- `ORACLE_SEED=<seed> ORACLE_GRAPHS=1` draws that one again. Everything here is raw: the graphs hold
-- metatables whose metamethods raise.

local helper = require "spec.helper"
local threadpool = require "threadpool"

local assert = assert
local describe, it, setup, teardown = helper.plainly(describe, it, setup, teardown)

local GRAPHS = tonumber(os.getenv "ORACLE_GRAPHS") or 300
local SEED = tonumber(os.getenv "ORACLE_SEED") or os.time() % 1000000 * 1000

local math_type, type, next, rawget, rawset, rawequal = math.type, type, next, rawget, rawset, rawequal
local unpack, getfenv, setfenv = table.unpack or unpack, getfenv, setfenv
local getupvalue, setupvalue, getmetatable = debug.getupvalue, debug.setupvalue, debug.getmetatable
local setmetatable = debug.setmetatable

-- PUC 5.1 cannot tell whether two closures share a variable.
local upvalueid, upvaluejoin = debug.upvalueid, debug.upvaluejoin

-- The field of a table, and the variable of a function, by which it is found again where it is a key.
local TAG = "id"

-- Both sides have these: they arrive as themselves.
local NAMED = {
    _G, string, table, math, string.format, string.rep, table.concat, math.floor, print, tostring,
    error, pcall, coroutine.wrap, io.open, threadpool, threadpool.runInPool, threadpool.sleep,
}
local named = {}
for _, value in ipairs(NAMED) do
    named[value] = true
end

local function is_container(value)
    local kind = type(value)
    return (kind == "table" or kind == "function") and not named[value]
end

local function compile(source, env)
    if not setfenv then
        return assert(load(source, "=graph", "t", env or _G))
    end
    return setfenv(assert(loadstring(source, "=graph")), env or _G)
end

local function tag_of(container)
    if type(container) == "table" then
        return rawget(container, TAG)
    elseif type(container) ~= "function" then
        return nil
    end
    local n = 1
    while true do
        local name, value = getupvalue(container, n)
        if name == TAG then
            return value
        elseif not name then
            return nil
        end
        n = n + 1
    end
end

-- Drawing. ----------------------------------------------------------------------------------------------------------

local zero, huge = 0.0, math.huge
local NUMBERS = {
    0, 1, -1, 63, 64, -64, -65, 127, 128, 255, 2 ^ 31 - 1, 2 ^ 31, -(2 ^ 31), 2 ^ 32, 2 ^ 53 - 1, 2 ^ 53, -(2 ^ 53),
    2 ^ 53 + 2, 2 ^ 63, -(2 ^ 63), 1e15, 1e100, 0.1, -0.1, 1 / 3, zero, -zero, huge, -huge, huge - huge,
    4.9406564584124654e-324, 2.2250738585072014e-308, 1.7976931348623157e308,
}
if math_type then
    for _, n in ipairs {
        math.maxinteger, math.mininteger, math.maxinteger - 1, math.mininteger + 1, math.tointeger(2 ^ 31),
        math.tointeger(2 ^ 53) + 1, math.tointeger(-(2 ^ 53)) - 1, math.tointeger(2 ^ 62), 3.0, -3.0,
    } do
        NUMBERS[#NUMBERS + 1] = n
    end
end

-- Each makes closures that share a, b and c among them, and whose `id` is their own.
local SCOPE = [[
    local a, b, c = ...
    return function(id) return function() return id, a end end,
        function(id) return function(x) a = x return id, a, b end end,
        function(id) return function(...) b, c = c, b return id, print, ... end end,
        function(id) return function() return function() c = c + 1 return id, c, a end end end,
        function(id) local function self(n) b = n return id, self, field end return self end
]]

local names, inits = {}, {}
for n = 1, 55 do
    names[n] = "v" .. n
    inits[n] = n % 3 == 0 and "a" or n % 3 == 1 and tostring(n) or "'s'"
end
local MANY = ("local a = ... local %s = %s return function(id) return function() return id, a, %s end end"):format(
    table.concat(names, ","), table.concat(inits, ","), table.concat(names, ",")
)

-- What has nothing of its own.
local PLAIN = [[
    return function() return 1 end, function(n) return tostring(n) end, function() field = 1 return field end
]]

-- Draws the roots of a graph of about `size` containers.
local function draw(seed, size)
    local state = seed * 48271 % 2147483646 + 1
    local function random(n)
        state = state * 16807 % 2147483647
        return state % n + 1
    end
    random(2) random(2) random(2)

    local tables, functions, metatables, scopes = {}, {}, {}, {}
    local left, tags = size, 0
    local value, container

    local function text()
        local kind = random(40)
        if kind == 1 then
            return ("x"):rep(random(70000))
        elseif kind < 6 then
            local bytes = {}
            for n = 1, random(300) do
                bytes[n] = string.char(random(256) - 1)
            end
            return table.concat(bytes)
        elseif kind < 9 then
            return ("\0"):rep(random(3) - 1)
        end
        return "text " .. random(50)
    end

    local function scalar()
        local kind = random(10)
        if kind == 1 then
            return nil
        elseif kind == 2 then
            return random(2) == 1
        elseif kind < 5 then
            return NUMBERS[random(#NUMBERS)]
        elseif kind < 7 then
            return random(2000000) - 1000000
        elseif kind == 7 then
            return random(2000000) / 1024
        elseif kind == 8 and random(3) == 1 then
            return NAMED[random(#NAMED)]
        end
        return text()
    end

    local function tag(of)
        tags = tags + 1
        if type(of) == "table" and rawget(of, TAG) == nil then
            rawset(of, TAG, tags)
        end
        return of
    end

    local function key()
        local kind = random(12)
        if kind < 6 then
            return "key " .. random(kind < 5 and 20 or 400)
        elseif kind == 6 then
            return text()
        elseif kind < 9 then
            return random(40) - 5
        elseif kind == 9 then
            -- Not -0.0: with it LuaJIT's compiled code makes a second key 0.
            local n = NUMBERS[random(#NUMBERS)]
            return n == n and n ~= 0 and n or 0.5
        elseif kind == 10 then
            return random(2) == 1
        elseif kind == 11 then
            return NAMED[random(#NAMED)]
        end
        return tag(container())
    end

    local function set(t, k, v)
        -- Its own tag a table keeps.
        if k ~= TAG then
            rawset(t, k, v)
        end
    end

    local function a_table()
        local t = {}
        tables[#tables + 1] = t
        local kind = random(10)
        if kind < 4 then
            for n = 1, random(8) do
                t[n] = value()
            end
        elseif kind == 4 then
            t = { value(), nil, value(), nil, nil, value(), nil }
            tables[#tables] = t
        elseif kind == 5 then
            for n = 1, random(20) do
                t[n * n] = value()
            end
        elseif kind == 6 and random(4) == 1 then
            for n = 1, 200 do
                t["unique " .. n .. (" "):rep(n % 90)] = n
            end
        end
        if kind > 3 then
            for _ = 1, random(6) do
                set(t, key(), value())
            end
        end
        kind = random(12)
        if kind == 1 then
            setmetatable(t, t)
        elseif kind < 4 and #metatables > 0 then
            setmetatable(t, metatables[random(#metatables)])
        elseif kind == 4 then
            local meta = { __name = "drawn", __metatable = "locked", [random(3)] = value() }
            for _, event in ipairs { "__index", "__newindex", "__eq", "__len", "__call", "__pairs", "__tostring" } do
                if random(2) == 1 then
                    meta[event] = error
                end
            end
            tables[#tables + 1], metatables[#metatables + 1] = meta, meta
            setmetatable(t, meta)
        elseif kind == 5 then
            local class = { __index = false, method = value() }
            class.__index = class
            tables[#tables + 1], metatables[#metatables + 1] = class, class
            setmetatable(t, class)
        end
        return t
    end

    local function a_function()
        local f
        local kind = random(12)
        if kind == 1 then
            f = select(random(3), compile(PLAIN)())
            -- It cannot be told from others, so it is no key.
            return f
        elseif kind == 2 then
            f = compile(MANY)(value())(tags + 1)
        else
            local scope = scopes[random(#scopes + 2)]
            if not scope then
                local env = random(4) == 1 and tables[random(#tables + 1)] or nil
                scope = { compile(SCOPE, env)(value(), value(), value()) }
                scopes[#scopes + 1] = scope
            end
            f = scope[random(#scope)](tags + 1)
        end
        tags = tags + 1
        functions[#functions + 1] = f
        return f
    end

    function container()
        left = left - 1
        local met = #tables + #functions
        if met > 0 and (left < 0 or random(3) == 1) then
            local n = random(met)
            return tables[n] or functions[n - #tables]
        end
        return random(4) == 1 and a_function() or a_table()
    end

    -- For a key: only functions that have a tag.
    local plain = container
    function container()
        local made = plain()
        return type(made) == "function" and not tag_of(made) and a_table() or made
    end

    function value()
        if left > 0 and random(3) > 1 then
            return plain()
        elseif random(6) == 1 then
            return plain()
        end
        return scalar()
    end

    -- Deeper than any stack would like.
    local function chain(top)
        for n = 1, random(400) do
            local kind = random(6)
            if kind == 1 then
                top = { before = n, next = top, after = value() }
            elseif kind == 2 then
                top = { [is_container(top) and tag_of(tag(top)) and top or "other"] = n }
            elseif kind == 3 and type(top) == "table" then
                top = setmetatable({ n }, top)
            elseif kind == 4 then
                top = select(2, compile(SCOPE)(top))(-n)
            else
                top = { top }
            end
        end
        return top
    end

    local roots = { n = random(4) - 1 }
    for n = 1, roots.n do
        roots[n] = value()
        if random(25) == 1 then
            roots[n] = chain(roots[n])
        end
    end
    -- Cycles that the order of drawing does not give.
    for _ = 1, #tables > 0 and random(6) or 0 do
        set(tables[random(#tables)], "back", tables[random(#tables)])
    end
    for _ = 1, #functions > 0 and random(6) or 0 do
        local f = functions[random(#functions)]
        local n = random(4)
        local name = getupvalue(f, n)
        if name and name ~= TAG and name ~= "_ENV" then
            setupvalue(f, n, plain())
        end
    end
    return roots
end

-- The oracle. -------------------------------------------------------------------------------------------------------

-- A copy of the list of roots, by the book: a new container for each, and then what is in it.
local function copy(roots)
    local copies, queue, cells, done = {}, {}, {}, 0

    local function of(value)
        if not is_container(value) then
            return value
        end
        local made = copies[value]
        if not made then
            made = type(value) == "table" and {} or assert((loadstring or load)(string.dump(value), "=copy"))
            copies[value] = made
            queue[#queue + 1] = value
        end
        return made
    end

    local all = { n = roots.n }
    for n = 1, roots.n do
        all[n] = of(roots[n])
    end
    while done < #queue do
        done = done + 1
        local from = queue[done]
        local to = copies[from]
        if type(from) == "table" then
            for k, v in next, from do
                rawset(to, of(k), of(v))
            end
            setmetatable(to, of(getmetatable(from)))
        else
            if setfenv then
                setfenv(to, of(getfenv(from)))
            end
            local n = 1
            while getupvalue(from, n) do
                local cell = upvalueid and upvalueid(from, n)
                if cell and cells[cell] then
                    upvaluejoin(to, n, cells[cell][1], cells[cell][2])
                else
                    if cell then
                        cells[cell] = { to, n }
                    end
                    local _, value = getupvalue(from, n)
                    setupvalue(to, n, of(value))
                end
                n = n + 1
            end
        end
    end
    return all
end

local function same_scalar(a, b)
    if type(a) ~= type(b) or math_type and math_type(a) ~= math_type(b) then
        return false
    elseif a ~= a then
        return b ~= b
    elseif a == 0 then
        return b == 0 and 1 / a == 1 / b
    end
    return rawequal(a, b)
end

-- Nil if the two lists of roots are one graph, drawn twice, with no container in common; else what differs.
local function difference(left, right)
    local there, back, cells_there, cells_back = {}, {}, {}, {}
    -- Pairs to compare: both sides, the pair that led there, and how.
    local a, b, parent, step, count, done = {}, {}, {}, {}, 0, 0

    local function pair(x, y, from, how)
        count = count + 1
        a[count], b[count], parent[count], step[count] = x, y, from, how
    end

    local function differs(what, at)
        local path = {}
        while at and at > 0 do
            table.insert(path, 1, tostring(step[at]))
            at = parent[at]
        end
        return table.concat(path, " -> ") .. ": " .. what
    end

    if left.n ~= right.n then
        return ("%d roots became %d"):format(left.n, right.n)
    end
    for n = 1, left.n do
        pair(left[n], right[n], 0, "root " .. n)
    end

    local function compare_tables(x, y, at)
        local keys, others, by_tag = 0, 0, nil
        for _ in next, y do
            others = others + 1
        end
        for k, v in next, x do
            keys = keys + 1
            local other = k
            if is_container(k) then
                if not by_tag then
                    by_tag = {}
                    for candidate in next, y do
                        if is_container(candidate) then
                            by_tag[tag_of(candidate) or "none"] = candidate
                        end
                    end
                end
                other = by_tag[tag_of(k)]
                if other == nil then
                    return "the key " .. tostring(tag_of(k)) .. " is missing"
                end
                pair(k, other, at, "key " .. tostring(tag_of(k)))
            end
            local name = is_container(k) and "a container" or tostring(k):sub(1, 30)
            pair(v, rawget(y, other), at, "[" .. name .. "]")
        end
        if keys ~= others then
            return ("%d keys became %d"):format(keys, others)
        end
        pair(getmetatable(x), getmetatable(y), at, "metatable")
    end

    local function compare_functions(x, y, at)
        if string.dump(x) ~= string.dump(y) then
            return "the code differs"
        end
        if getfenv then
            pair(getfenv(x), getfenv(y), at, "environment")
        end
        local n = 1
        while true do
            local name, value = getupvalue(x, n)
            local other_name, other = getupvalue(y, n)
            if name ~= other_name then
                return ("upvalue %s became %s"):format(tostring(name), tostring(other_name))
            elseif not name then
                return nil
            end
            if upvalueid then
                local cell, other_cell = upvalueid(x, n), upvalueid(y, n)
                if rawequal(cell, other_cell) then
                    return ("the variable %s is the original's"):format(name)
                end
                if cells_there[cell] ~= nil or cells_back[other_cell] ~= nil then
                    if cells_there[cell] ~= other_cell or cells_back[other_cell] ~= cell then
                        return ("the variable %s is not shared as it was"):format(name)
                    end
                end
                cells_there[cell], cells_back[other_cell] = other_cell, cell
            end
            pair(value, other, at, "upvalue " .. name)
            n = n + 1
        end
    end

    while done < count do
        done = done + 1
        local x, y = a[done], b[done]
        if not is_container(x) then
            if named[x] and not rawequal(x, y) or not named[x] and not same_scalar(x, y) then
                return differs(("%s became %s"):format(type(x), type(y)), done)
            end
        elseif type(x) ~= type(y) or named[y] then
            return differs(("%s became %s%s"):format(type(x), named[y] and "a named " or "", type(y)), done)
        elseif rawequal(x, y) then
            return differs("it is the original", done)
        elseif there[x] or back[y] then
            if not rawequal(there[x], y) or not rawequal(back[y], x) then
                return differs("its identity was lost", done)
            end
        else
            there[x], back[y] = y, x
            local compare = type(x) == "table" and compare_tables or compare_functions
            local what = compare(x, y, done)
            if what then
                return differs(what, done)
            end
        end
        -- What was compared is not needed any more, unless it is on the path to what comes.
        a[done], b[done] = nil, nil
    end
end

-- The ways there and back. ------------------------------------------------------------------------------------------

local function pack(...)
    return { n = select("#", ...), ... }
end

describe("a random graph", function()
    local pool

    setup(function()
        pool = threadpool.fixed(1)
    end)

    teardown(function()
        pool:shutdown()
    end)

    local function results(ok, ...)
        assert(ok, not ok and tostring((...)) or nil)
        return pack(...)
    end

    local captured
    local function return_captured() return unpack(captured, 1, captured.n) end

    local ways = {
        arguments = function(roots)
            return results(pool:run(function(...) return ... end, unpack(roots, 1, roots.n)))
        end,
        upvalues = function(roots)
            captured = roots
            return results(pool:run(return_captured))
        end,
        ["an error"] = function(roots)
            local ok, back = pool:run(function(...) error({ n = select("#", ...), ... }, 0) end,
                unpack(roots, 1, roots.n))
            assert(not ok)
            if getmetatable(back) then
                error(tostring(back), 0) -- of the module itself
            end
            return back
        end,
    }

    for name, way in next, ways do
        it("arrives as " .. name, function()
            for n = 1, math.ceil(GRAPHS / 3) do
                local seed = SEED + n - 1
                local size = n % 100
                -- One graph asked for is a graph to be looked at: of every size, the smallest that fails.
                for try = GRAPHS == 1 and 1 or size, GRAPHS == 1 and 100 or size do
                    local roots = draw(seed, try)
                    local by_the_book = copy(roots)
                    local what = difference(roots, by_the_book)
                    assert(not what, ("the oracle is wrong: seed %d, size %d: %s"):format(seed, try, tostring(what)))
                    local ok, back = pcall(way, roots)
                    what = not ok and tostring(back) or difference(by_the_book, back)
                        -- What was sent stays as it was.
                        or difference(roots, by_the_book) and "the original has changed"
                    assert(not what, ("seed %d, size %d: ...%s"):format(seed, try, tostring(what):sub(-200)))
                end
            end
        end)
    end
end)

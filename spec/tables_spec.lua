--- Tables that cross: their contents, and which of them are one and the same.

local helper = require "spec.helper"
local threadpool = require "threadpool"

local assert = assert
local describe, it, setup, teardown = helper.plainly(describe, it, setup, teardown)

describe("a table", function()
    local pool

    setup(function()
        pool = threadpool.fixed(1)
    end)

    teardown(function()
        pool:shutdown()
    end)

    local function results(ok, ...)
        assert.is_true(ok, (...))
        return ...
    end

    -- There and back.
    local function cross(...)
        return results(pool:run(function(...) return ... end, ...))
    end

    it("arrives as a copy", function()
        local sent = { 1, 2, inner = { x = 1 } }
        local back = results(pool:run(function(t)
            t[1], t.inner.x = "changed", "changed"
            return t
        end, sent))
        assert.are.same({ 1, 2, inner = { x = 1 } }, sent)
        assert.are.same({ "changed", 2, inner = { x = "changed" } }, back)
    end)

    it("is copied when it is sent, not when it is run", function()
        local path, open = helper.gate()
        pool:post(function() io.open(path):read() end)
        local sent = { "before" }
        local future = pool:submit(function(t) return t[1] end, sent)
        sent[1] = "after"
        open()
        assert.are.equal("before", results(future:await(helper.TIMEOUT)))
        os.remove(path)
    end)

    it("empty", function()
        local back = cross {}
        assert.are.equal("table", type(back))
        assert.is_nil(next(back))
    end)

    it("arrays of every length around the limits of a length field", function()
        for _, limit in ipairs { 1, 4, 8, 127, 128, 255, 256, 16384, 65536 } do
            for length = limit - 1, limit + 1 do
                local list = {}
                for n = 1, length do
                    list[n] = n
                end
                local back = cross(list)
                assert.are.equal(length, #back)
                assert.are.equal(length > 0 and length or nil, back[length])
                assert.is_nil(back[length + 1])
                assert.is_nil(back[0])
            end
        end
    end)

    it("arrays with holes", function()
        assert.are.same({ 1, nil, 3 }, cross { 1, nil, 3 })
        assert.are.same({ nil, nil, 3 }, cross { nil, nil, 3 })
        assert.are.same({ [1] = 1, [2] = 2, [4] = 4, [100] = 100 }, cross { 1, 2, [4] = 4, [100] = 100 })
        assert.are.same({ [1000000] = true }, cross { [1000000] = true })
        local list = { n = 50 }
        for n = 1, 50, 7 do
            list[n] = n
        end
        assert.are.same(list, cross(list))
    end)

    it("arrays that were emptied from the front or filled from the end", function()
        local emptied, filled = {}, {}
        for n = 1, 100 do
            emptied[n] = n
        end
        for n = 1, 90 do
            emptied[n] = nil
        end
        for n = 100, 1, -1 do
            filled[n] = n
        end
        assert.are.same(emptied, cross(emptied))
        assert.are.same(filled, cross(filled))
    end)

    it("mixed: array, names, numbers below one, fractions, huge, booleans", function()
        local sent = {
            "a", "b", "c", name = 1, [0] = 0, [-1] = -1, [0.5] = 0.5, [2 ^ 53] = 53, [-(2 ^ 31)] = 31,
            [math.huge] = "inf", [-math.huge] = "-inf", [true] = false, [false] = true,
            [""] = "empty", ["\0"] = "nul",
        }
        assert.are.same(sent, cross(sent))
    end)

    it("values false stay", function()
        assert.are.same({ false, x = false }, cross { false, x = false })
    end)

    it("many distinct keys, some long, some much alike", function()
        local sent = {}
        for n = 1, 2000 do
            sent["key" .. n] = n
            sent[("long"):rep(30) .. n] = -n
        end
        assert.are.same(sent, cross(sent))
    end)

    it("many records with the same keys", function()
        local sent = {}
        for n = 1, 5000 do
            sent[n] = { id = n, name = "name" .. n, score = n / 2, [n % 3 == 0 and "third" or "other"] = true }
        end
        assert.are.same(sent, cross(sent))
    end)

    if math.type then
        it("integer keys at the limits, float keys with no integer", function()
            local sent = {
                [math.maxinteger] = "max", [math.mininteger] = "min", [2 ^ 53] = 53, [2.5] = "float", [2.0 ^ 70] = 70,
            }
            assert.are.same(sent, cross(sent))
            for key in pairs(cross { [1] = true, [7] = true, [math.maxinteger] = true }) do
                assert.are.equal("integer", math.type(key))
            end
        end)
    end

    it("that contains itself", function()
        local sent = { name = "self" }
        sent.self = sent
        assert.is_true(results(pool:run(function(t) return t.self == t end, sent)))
        local back = cross(sent)
        assert.is_true(back.self == back)
        assert.are.equal("self", back.name)
    end)

    it("cycles over several tables", function()
        local a, b, c = { name = "a" }, { name = "b" }, { name = "c" }
        a.next, b.next, c.next = b, c, a
        local back = cross(a)
        assert.are.equal("c", back.next.next.name)
        assert.is_true(back.next.next.next == back)
        assert.is_false(back.next == back)
    end)

    it("that is its own key", function()
        local sent = {}
        sent[sent] = "self"
        local back = cross(sent)
        assert.are.equal("self", back[back])
        assert.are.equal(back, (next(back)))
    end)

    it("that is its own key and value", function()
        local sent = {}
        sent[sent] = sent
        local back = cross(sent)
        assert.is_true(back[back] == back)
    end)

    it("shared by two places of one table, by two arguments, by an argument and an upvalue", function()
        local shared = { 1 }
        local back = cross { a = shared, b = { c = shared } }
        assert.is_true(back.a == back.b.c)
        local one, two = cross(shared, shared)
        assert.is_true(one == two)
        assert.is_true(results(pool:run(function(argument) return argument == shared end, shared)))
    end)

    it("equal tables that are not the same stay two", function()
        local back = cross { a = {}, b = {} }
        assert.is_false(back.a == back.b)
    end)

    it("tables and functions as keys", function()
        local key = { "key" }
        local back = cross { [key] = "value", key = key }
        assert.are.equal("value", back[back.key])
        local named, nested = cross({ [print] = "print", [{ { "deep" } }] = "nested" })[print], nil
        assert.are.equal("print", named)
        for k in pairs(cross { [{ { "deep" } }] = 1 }) do
            nested = k[1][1]
        end
        assert.are.equal("deep", nested)
        local fn = function() return "called" end
        back = cross { [fn] = fn }
        local k, v = next(back)
        assert.is_true(k == v)
        assert.are.equal("called", k())
    end)

    it("a key table that holds the table it is a key of", function()
        local outer, key = {}, {}
        key.outer = outer
        outer[key] = key
        local back = cross(outer)
        local k, v = next(back)
        assert.is_true(k == v and k.outer == back)
    end)

    -- With no recursion on this side either.
    local function nested(depth)
        local top = { "bottom" }
        for _ = 2, depth do
            top = { top }
        end
        return top
    end

    local function depth_of(t)
        local depth = 1
        while type(t[1]) == "table" do
            t, depth = t[1], depth + 1
        end
        return depth, t[1]
    end

    it("nested 200,000 deep, there", function()
        local DEPTH = 200000
        local depth, bottom = results(pool:run(function(t)
            local depth = 1
            while type(t[1]) == "table" do
                t, depth = t[1], depth + 1
            end
            return depth, t[1]
        end, nested(DEPTH)))
        assert.are.same({ DEPTH, "bottom" }, { depth, bottom })
    end)

    it("nested 200,000 deep, back", function()
        local DEPTH = 200000
        local back = results(pool:run(function()
            local top = { "bottom" }
            for _ = 2, DEPTH do
                top = { top }
            end
            return top
        end))
        assert.are.same({ DEPTH, "bottom" }, { depth_of(back) })
    end)

    it("nested 200,000 deep in the keys", function()
        local DEPTH = 200000
        local top = { bottom = true }
        for _ = 2, DEPTH do
            top = { [top] = true }
        end
        local t, depth = cross(top), 1
        while type(next(t)) == "table" do
            t, depth = next(t), depth + 1
        end
        assert.are.same({ DEPTH, "bottom" }, { depth, (next(t)) })
    end)

    it("a linked list of 1,000,000 nodes, there and back", function()
        local COUNT = 1000000
        local list
        for n = 1, COUNT do
            list = { value = n, next = list }
        end
        local back = cross(list)
        local count, sum = 0, 0
        while back do
            count, sum, back = count + 1, sum + back.value, back.next
        end
        assert.are.same({ COUNT, COUNT * (COUNT + 1) / 2 }, { count, sum })
    end)

    it("a doubly linked list that is longer than any depth", function()
        local first = { value = 1 }
        local last = first
        for n = 2, 5000 do
            last.next = { value = n, previous = last }
            last = last.next
        end
        local node, count = cross(first), 0
        while node do
            count = count + 1
            assert.is_true(node.next == nil or node.next.previous == node)
            node = node.next
        end
        assert.are.equal(5000, count)
    end)

    it("shared references across the limit of the depth", function()
        local shared = { "shared" }
        local top = { shared }
        for _ = 1, 1000 do
            top = { top, shared, shared = shared }
        end
        local t = cross(top)
        local one = t.shared
        while t.shared do
            assert.is_true(t.shared == one and t[2] == one)
            t = t[1]
        end
        assert.is_true(t[1] == one)
    end)
end)

describe("a metatable", function()
    local pool

    setup(function()
        pool = threadpool.fixed(1)
    end)

    teardown(function()
        pool:shutdown()
    end)

    local function cross(...)
        local ok, back, more = pool:run(function(...) return ... end, ...)
        assert.is_true(ok, back)
        return back, more
    end

    it("works in the task and comes back", function()
        local Point = {}
        Point.__index = Point
        Point.__eq = function(a, b) return a.x == b.x end
        Point.__add = function(a, b) return setmetatable({ x = a.x + b.x }, Point) end
        function Point:double() return self.x * 2 end
        local ok, double, sum = pool:run(function(a, b)
            return a:double(), a + b
        end, setmetatable({ x = 1 }, Point), setmetatable({ x = 2 }, Point))
        assert.is_true(ok, double)
        assert.are.equal(2, double)
        assert.are.equal(3, sum.x)
        assert.are.equal(6, sum:double())
    end)

    it("is one for two objects of one class", function()
        local class = { name = "class" }
        local one, two = cross(setmetatable({}, class), setmetatable({}, class))
        assert.are.equal("class", getmetatable(one).name)
        assert.is_true(getmetatable(one) == getmetatable(two))
    end)

    it("is not called while the table is rebuilt, nor while it is read", function()
        local guarded = setmetatable({ 1, 2, x = 3 }, {
            __newindex = function() error "__newindex was called" end,
            __index = function() error "__index was called" end,
            __len = function() error "__len was called" end,
            __pairs = function() error "__pairs was called" end,
            __metatable = "protected",
        })
        local back = cross(guarded)
        assert.are.equal("protected", getmetatable(back))
        assert.are.same({ 1, 2, 3 }, { rawget(back, 1), rawget(back, 2), rawget(back, "x") })
    end)

    it("of a table that is its own metatable", function()
        local sent = { name = "own" }
        setmetatable(sent, sent)
        local back = cross(sent)
        assert.is_true(getmetatable(back) == back)
    end)

    it("of a weak table keeps its effect", function()
        local ok, left = pool:run(function(weak)
            weak.gone = {}
            collectgarbage()
            collectgarbage()
            return weak.gone == nil and getmetatable(weak).__mode
        end, setmetatable({}, { __mode = "v" }))
        assert.are.same({ true, "v" }, { ok, left })
    end)

    it("past the limit of the depth", function()
        local meta = { __index = { answer = 42 } }
        local top = setmetatable({}, meta)
        for _ = 1, 1000 do
            top = setmetatable({ next = top }, meta)
        end
        local node = cross(top)
        local one = getmetatable(node)
        while rawget(node, "next") do
            node = node.next
            assert.is_true(getmetatable(node) == one)
            assert.are.equal(42, node.answer)
        end
    end)

    -- 5.1 and LuaJIT call no __gc of a table.
    if helper.interpreter.version ~= "5.1" then
        it("with __gc is refused: a copy would finalize one resource twice", function()
            local sent = { inner = setmetatable({}, { __gc = function() end }) }
            local ok, err = pcall(pool.run, pool, function() end, sent)
            assert.is_false(ok)
            assert.are.equal("transfer", err.code)
            assert.matches("argument 1 %-> %.inner: .*__gc", tostring(err))
        end)
    end
end)

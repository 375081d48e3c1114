--- Values that are not containers, as arguments to a task and as its results: the same value, the same subtype,
-- the same number of them.

local helper = require "spec.helper"
local threadpool = require "threadpool"

local assert = assert
local describe, it, setup, teardown = helper.plainly(describe, it, setup, teardown)

local function pack(...)
    return { n = select("#", ...), ... }
end

describe("a value", function()
    local pool

    setup(function()
        pool = threadpool.fixed(1)
    end)

    teardown(function()
        pool:shutdown()
    end)

    -- There as an argument, back as a result.
    local function cross(value)
        local ok, back = pool:run(function(...) return ... end, value)
        assert.is_true(ok, back)
        return back
    end

    local function same(value)
        local back = cross(value)
        assert.are.equal(type(value), type(back))
        assert.are.equal(value, back)
        if math.type then
            assert.are.equal(math.type(value), math.type(back))
        end
    end

    it("nil", function()
        assert.are.same({ n = 2, true, nil }, pack(pool:run(function(...) return ... end, nil)))
    end)

    it("booleans", function()
        same(true)
        same(false)
    end)

    it("whole numbers around every power of two", function()
        for exponent = 0, 53 do
            for delta = -1, 1 do
                same(2 ^ exponent + delta)
                same(-(2 ^ exponent) + delta)
            end
        end
    end)

    if math.type then
        it("integers around every power of two", function()
            for exponent = 0, 62 do
                local power = math.tointeger(2 ^ exponent)
                for delta = -1, 1 do
                    same(power + delta)
                    same(-power + delta)
                end
            end
            same(math.maxinteger)
            same(math.mininteger)
        end)

        it("floats that are whole stay floats", function()
            for _, value in ipairs { 0.0, 1.0, -1.0, 2.0 ^ 31, 2.0 ^ 53, 2.0 ^ 63, -(2.0 ^ 63), 1e15, 1e300 } do
                same(value)
            end
        end)

        it("arrives in the task with its subtype", function()
            local ok, integer, float, limit = pool:run(function(a, b, c)
                return math.type(a), math.type(b), c == math.mininteger
            end, 1, 1.0, math.mininteger)
            assert.are.same({ true, "integer", "float", true }, { ok, integer, float, limit })
        end)
    end

    it("fractions, the largest and the smallest", function()
        for _, value in ipairs {
            0.1, -0.1, 1 / 3, math.pi, 1e-300, 1.7976931348623157e308, -1.7976931348623157e308,
            2.2250738585072014e-308, 4.9406564584124654e-324,
        } do
            same(value)
        end
    end)

    it("the infinities", function()
        same(math.huge)
        same(-math.huge)
    end)

    it("NaN", function()
        local back = cross(0 / 0)
        assert.are.equal("number", type(back))
        assert.is_true(back ~= back)
    end)

    it("minus zero keeps its sign", function()
        local zero = 0.0
        assert.are.equal(-math.huge, 1 / cross(-zero))
        assert.are.equal(math.huge, 1 / cross(zero))
    end)

    it("strings with every byte", function()
        local bytes = {}
        for byte = 0, 255 do
            bytes[#bytes + 1] = string.char(byte)
            same(string.char(byte))
        end
        same(table.concat(bytes))
    end)

    it("strings that hold NUL", function()
        same ""
        same "\0"
        same "\0\0\0"
        same "before\0after"
        same "ends with\0"
    end)

    it("strings of every length around the limits of a length field", function()
        for _, limit in ipairs { 1, 40, 64, 127, 128, 255, 256, 16383, 16384, 65535, 65536, 2097151, 2097152 } do
            for length = limit - 1, limit + 1 do
                local text = ("x"):rep(length)
                assert.is_true(cross(text) == text)
            end
        end
    end)

    it("a string of a megabyte that does not repeat", function()
        local parts = {}
        for n = 1, 150000 do
            parts[n] = ("%07d"):format(n)
        end
        local text = table.concat(parts)
        assert.is_true(#text > 2 ^ 20)
        assert.is_true(cross(text) == text)
    end)

    it("a string that reads like a number stays a string", function()
        same "10"
        same "0x10"
        same "1e5"
    end)
end)

describe("a list of values", function()
    local pool

    setup(function()
        pool = threadpool.fixed(1)
    end)

    teardown(function()
        pool:shutdown()
    end)

    -- What the task counted, then the arguments as they came back.
    local function cross(...)
        return pack(pool:run(function(...) return select("#", ...), ... end, ...))
    end

    it("of none", function()
        assert.are.same({ n = 2, true, 0 }, cross())
        assert.are.same({ n = 1, true }, pack(pool:run(function() end)))
    end)

    it("of one nil is not one of none", function()
        assert.are.same({ n = 3, true, 1, nil }, cross(nil))
        assert.are.same({ n = 2, true, nil }, pack(pool:run(function() return nil end)))
    end)

    it("with nils in front, between and at the end", function()
        assert.are.same({ n = 6, true, 4, nil, 1, nil, 2 }, cross(nil, 1, nil, 2))
        assert.are.same({ n = 6, true, 4, 1, nil, 2, nil }, cross(1, nil, 2, nil))
        assert.are.same({ n = 7, true, 5, nil, nil, nil, nil, nil }, cross(nil, nil, nil, nil, nil))
        assert.are.same({ n = 5, true, 3, false, nil, nil }, cross(false, nil, nil))
    end)

    it("of 200 arguments and results", function()
        local list = { n = 200 }
        for n = 1, 200, 3 do
            list[n] = n
        end
        local back = cross((table.unpack or unpack)(list, 1, 200))
        assert.are.equal(202, back.n)
        assert.are.equal(200, back[2])
        for n = 1, 200 do
            assert.are.equal(list[n], back[n + 2])
        end
    end)

    it("of 5000 results", function()
        local back = pack(pool:run(function()
            local list = {}
            for n = 1, 5000 do
                list[n] = n
            end
            return (table.unpack or unpack)(list)
        end))
        assert.are.equal(5001, back.n)
        for n = 1, 5000 do
            assert.are.equal(n, back[n + 1])
        end
    end)
end)
